"""YAML from outside: limits before anything is built, and errors in a line."""

import pytest

from unified.core.errors import DataError
from unified.core.yaml_files import parse_yaml

BOMB = "[&a0 [x,x,x,x,x,x,x,x,x,x]" + "".join(f", &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 8)) + "]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, ": expected at most 500,000 values, aliases written out"),
        ("a: " + "[" * 5000, "expected at most 50 levels"),
        ("a: &a [*a]", "found recursive|recursive objects|not valid YAML"),
        ("{[a]: b}", "x.yaml:1: expected a text or a number as a key, got a list"),
        ("a: !!int x", "not valid YAML: invalid literal"),
        ("a: !!bool x", "not valid YAML"),
        ("a: 2001-99-99", "not valid YAML: month must be in 1..12"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML: could not determine a constructor"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: *nothing", "not valid YAML: found undefined alias"),
        ("a: b: c", "not valid YAML: mapping values are not allowed .*in line 1, column 5"),
    ],
)
def test_what_is_no_yaml_is_told_in_a_line(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        parse_yaml(text.encode(), "x.yaml")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_other_encodings_are_refused() -> None:
    with pytest.raises(DataError, match="expected text in UTF-8, got UTF-16"):
        parse_yaml("a: 1".encode("utf-16"), "x.yaml")


def test_aliases_are_read() -> None:
    assert parse_yaml(b"a: &x {b: 1}\nc: *x\n", "x.yaml") == {"a": {"b": 1}, "c": {"b": 1}}
    assert parse_yaml(b"\xef\xbb\xbf", "x.yaml") is None
