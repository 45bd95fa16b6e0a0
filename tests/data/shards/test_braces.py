import tracemalloc

import pytest
from webdataset.shardlists import expand_urls

from unified.core.errors import DataError
from unified.data.shards.braces import MOST_NAMES, expand_braces


@pytest.mark.parametrize(
    "pattern",
    [
        "plain",
        "a{08..10}-{x,y}",
        "s-{000..012}.tar",
        "s-{9..11}.tar",
        "s-{3..1}.tar",
        "s-{00..10..5}.tar",
        "s-{-1..1}.tar",
        "s-{a..e..2}.tar",
        "{train/{00..02},val/{0,1}}.tar",
        "{a,}b{,c}",
        "{a}{}{1..}",
        "pipe:ssh host cat /data/s-{00..03}.tar",
        "pipe:awk '{print $1}' list",
        "https://host/{a,b}/s-{0..3}.tar?key=1",
    ],
)
def test_names_are_those_of_webdataset(pattern: str) -> None:
    assert expand_braces(pattern) == expand_urls(pattern)


def test_names_in_order() -> None:
    assert expand_braces("a{08..10}-{x,y}") == ["a08-x", "a08-y", "a09-x", "a09-y", "a10-x", "a10-y"]


@pytest.mark.parametrize("pattern", ["s-{00..02.tar", "s-00}.tar", "{" * 5, "a}{b"])
def test_braces_that_do_not_close_are_letters(pattern: str) -> None:
    assert expand_braces(pattern) == [pattern]


def test_backslashes_stay() -> None:
    assert expand_braces(r"pipe:sed 's/\n//' {1,2}") == [r"pipe:sed 's/\n//' 1", r"pipe:sed 's/\n//' 2"]


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("s-{0..99999999}.tar", "100,000,000"),
        ("s-{99999999..0}.tar", "100,000,000"),
        ("{0..9999}{0..9999}", "100,000,000"),
        ("{a,{0..9999}{0..9999}}", "100,000,001"),
        ("{a,b}" * 24, "16,777,216"),
        ("{x,{y,{0..9999999}}}", "10,000,002"),
        ("{a..z}" * 9, "too many to count"),
        ("{0..9999999}{unclosed", "10,000,000"),
        ("{0.." + "9" * 30 + "}", "too many to count"),
        ("{0.." + "9" * 5000 + "}", "too many to count"),
        ("{" * 5000 + "a,b" + "}" * 5000, "too many to count"),
        ("{0..99}" * 2000, "too many to count"),
    ],
)
def test_names_without_end_are_counted_and_not_made(pattern: str, count: str) -> None:
    tracemalloc.start()
    with pytest.raises(DataError, match=f"braces for at most 1,000,000 names, got {count}") as error:
        expand_braces(pattern)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5e6
    assert len(str(error.value)) < 300


def test_as_many_as_may_be() -> None:
    names = expand_braces("{0..99}{0..9999}")
    assert (len(names), names[-1]) == (MOST_NAMES, "999999")
