"""One reading of YAML from outside: limits before anything is built, and one line that says what is wrong."""

from pathlib import Path
from typing import Any

import yaml

from unified.core.errors import DataError
from unified.core.json_files import read_bytes
from unified.core.text_files import decode_text, is_text, shown_text

MOST_BYTES = 1 << 23
MOST_LEVELS = 50
MOST_NODES = 500_000
"""Of a document with its aliases written out; a label set of 21,000 names has some 100,000."""


_Fast: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""In C where PyYAML has it: a megabyte of small values takes half a minute in Python."""


class _Loader(_Fast):  # type: ignore[misc, valid-type]
    """YAML in which a key that is written twice is an error."""


class _Texts(_Loader):
    """The same, with every scalar as the text that it is: `yes`, `no` and `on` are names, not booleans."""


class _ContentError(yaml.YAMLError):
    """A key that is written twice or cannot be one, or a text that is none."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        name = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if isinstance(name, list | dict | set):
            raise _ContentError(line, "expected a text or a number as a key, got a list or a mapping")
        if name in seen:
            raise _ContentError(line, f"{shown_text(str(name))} is written twice")
        seen[name] = loader.construct_object(value_node, deep=True)
    return seen


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    """A text; escapes in quotes can write half a character, which no tokenizer and no file could take."""
    text = str(loader.construct_scalar(node))
    if not is_text(text):
        what = f"expected Unicode text, got a lone surrogate in {shown_text(text)}"
        raise _ContentError(node.start_mark.line + 1, f"{what}. Hint: write both halves of the character")
    return text


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor("tag:yaml.org,2002:str", _text)
_Texts.yaml_implicit_resolvers = {}


def parse_yaml(data: bytes, where: str, *, texts: bool = False) -> Any:
    """Return the value of a YAML document.

    Args:
        data: Its bytes, UTF-8.
        where: The file, as an error names it.
        texts: Whether scalars stay the texts that they are.

    Raises:
        DataError: It is no YAML, writes a key twice, or is beyond the limits of this module.
    """
    text = decode_text(data, where)
    try:
        _check_size(text, where)
        return yaml.load(text, Loader=_Texts if texts else _Loader)
    except DataError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
        raise DataError(f"{where}: not valid YAML: {error.problem or error.context}{place}") from error
    except _ContentError as error:
        raise DataError(f"{where}:{error.line}: {error}") from error
    except yaml.YAMLError as error:
        raise DataError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from error
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:  # a date, a number, a tag that does not fit its text
        raise DataError(f"{where}: not valid YAML: {str(error)[:80]}. Hint: write texts in quotes") from error


def read_yaml_file(path: Path) -> Any:
    """Return the value of a YAML file, as `parse_yaml` does; a regular file of at most `MOST_BYTES`."""
    return parse_yaml(read_bytes(path, MOST_BYTES), str(path))


def _check_size(text: str, where: str) -> None:
    """Count what the document would be with its aliases written out, without building it."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=_Fast):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            total += sizes.get(event.anchor or "", 1)
        else:
            total += 1
        if len(open_nodes) > MOST_LEVELS:
            raise DataError(f"{where}: expected at most {MOST_LEVELS} levels of lists and mappings, got more")
        if total > MOST_NODES:
            raise DataError(f"{where}: expected at most {MOST_NODES:,} values, aliases written out, got more")
