"""What is printed is cut, escaped, and no Python."""

import re
from pathlib import Path

import pytest

import unified
from unified.core.errors import MOST, UserError, nearest, one_line, printable, quoted, say


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("\x1b]52;c;aGk=\x07", "\\x1b]52;c;aGk=\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\rb\tc\x7f", "a\\rb\\tc\\x7f"),
        ("exe\u202egnp", "exe\\u202egnp"),
        ("\ud83d", "\\ud83d"),
        ("naïve 95\u00a0% 猫", "naïve 95\u00a0% 猫"),
    ],
)
def test_control_characters_are_escaped(given: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printable(given) == str(UserError(given)) == expected
    say(given)
    assert capsys.readouterr().out == f"{expected}\n"


def test_line_ends_of_messages_stay_and_those_of_cells_do_not() -> None:
    assert printable("two problems\n  a") == "two problems\n  a"
    assert one_line("a\nb") == "a\\nb"


@pytest.mark.parametrize("value", ["x" * 500, "don't " * 100, 'say "no" ' * 100, "back\\slash " * 50])
def test_quoted_values_are_cut(value: str) -> None:
    message = str(UserError(f"the model's x.yaml: expected int, got {value!r}. Hint: don't"))
    assert message.startswith("the model's x.yaml: expected int, got ")
    assert message.endswith(("…'. Hint: don't", "…\". Hint: don't"))
    assert len(message) < 150


def test_quoted_paths_are_for_copying() -> None:
    path = f"/data/{'a' * 200}.tar"
    assert path in str(UserError(f"no such file: {path!r}"))


@pytest.mark.parametrize("value", [["x" * 90] * 90, {"a": {"b": {"c": ["d" * 500]}}}, 10**200, "x" * 5000])
def test_values_of_all_kinds_are_short(value: object) -> None:
    assert len(quoted(value)) <= 82


def test_numbers_that_python_does_not_write_have_words() -> None:
    assert quoted(16**9000) == "a number of thousands of digits"


def test_small_values_are_quoted_as_they_are() -> None:
    assert [quoted(v) for v in ("a'b", 3, 0.5, None, [1, 2], {"a": 1})] == [
        '"a\'b"',
        "3",
        "0.5",
        "None",
        "[1, 2]",
        "{'a': 1}",
    ]


def test_paths_are_printed_as_people_write_them() -> None:
    assert str(UserError(f"{[Path('/a/b')]}: no samples")) == "['/a/b']: no samples"


def test_no_message_is_endless() -> None:
    assert len(str(UserError("a " * 10**6))) <= MOST + 1
    listed = nearest("clas 7", [f"class {number}" for number in range(200_000)])
    assert listed.startswith("; did you mean 'class 7'? There are: class 0, ")
    assert listed.endswith(", and 199,960 more")


def test_commands_print_in_one_place() -> None:
    package = Path(unified.__file__).parent
    writing = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"sys\.stdout\.write\(|\bprint\(", path.read_text())
    }
    assert writing == {"core/errors.py", "cli/main.py", "cli/train.py"}  # there: help and the version alone
