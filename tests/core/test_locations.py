"""Messages show locations without users, passwords, queries and the arguments of commands."""

from pathlib import Path

import pytest

from unified.checkpoint.place import Store, place
from unified.core.errors import CheckpointError, UserError
from unified.core.locations import shown, without_secrets
from unified.core.log import logger


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://me:hush@h/x.tar", "https://…@h/x.tar"),
        ("https://hush@h/x.tar", "https://…@h/x.tar"),
        ("https://me:hu/sh@h:81/x.tar", "https://…@h:81/x.tar"),
        ("https://me:hu@sh@h/x.tar", "https://…@h/x.tar"),
        ("s3://key:hush@bucket/x?versionId=hush", "s3://…@bucket/x?…"),
        ("simplecache::s3://key:hush@bucket/x", "simplecache::s3://…@bucket/x"),
        (str(Path("ftp://me:hush@h/run/x.yaml")), "ftp:/…@h/run/x.yaml"),
        ("http:/h/x.tar?sig=hush", "http:/h/x.tar?…"),
        ("pipe:curl -u me:hush https://h/x-0.tar", "pipe:curl … x-0.tar"),
        ("pipe: curl \\\n -u me:hush https://h/", "pipe:curl …"),
    ],
)
def test_a_location_is_shown_without_secrets(given: str, expected: str) -> None:
    assert shown(given) == expected
    assert shown(expected) == expected  # messages go through it again
    assert shown(f"failed at {given}: gone").startswith(f"failed at {expected}")
    assert "hush" not in shown(f"found {given!r}, and {[given]}")


@pytest.mark.parametrize(
    "text",
    [
        "hf://datasets/org/name@main/x.tar",
        "http://127.0.0.1:8000/a/b@c.tar",
        "the `pipe:` of a recipe",
        "a/b@c?d: no such file",
        "pipe:curl … x-0.tar: the command ended with status 1",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert shown(text) == text


def test_errors_and_records_have_no_secrets(caplog: pytest.LogCaptureFixture) -> None:
    address = "https://me:hush@h/x?sig=hush"
    error = UserError(f"{address}: gone")
    with caplog.at_level("WARNING", logger="unified"):
        logger.warning("%s is skipped: %s", address, 3)
    assert str(error) == "https://…@h/x?…: gone"
    assert "hush" not in repr(error)
    assert "https://…@h/x?… is skipped: 3" in caplog.text


def test_recipes_are_printed_without_secrets() -> None:
    recipe = {"data": ["https://me:hush@h/x.tar", "a.tar"], "train": {"checkpoints": "s3://k:hush@b/run"}, "slots": 1}
    expected = {"data": ["https://…@h/x.tar", "a.tar"], "train": {"checkpoints": "s3://…@b/run"}, "slots": 1}
    assert without_secrets(recipe) == expected


def test_places_of_checkpoints_print_themselves_without_secrets() -> None:
    found = place("memory://me:hush@h/run")
    assert isinstance(found, Store)
    assert "hush" not in str(found.child("step_00000001"))
    with pytest.raises(CheckpointError) as caught:
        place("nothing://me:hush@h/run")
    assert "nothing://…@h/run" in str(caught.value)
    assert "hush" not in str(caught.value)
