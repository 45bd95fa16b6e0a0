"""Damage to files: to their bytes, and to the values of JSON and YAML."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

WORDS = [
    "",
    "x" * 10_000,
    "\x1b[31mred\x07",
    "naïve",
    "Z\u0308",
    "\u202eevil",
    "../../etc/passwd",
    "/etc/passwd",
    "nan",
    "1e999",
    "null",
    "\0",
]
NUMBERS = [
    -1,
    0,
    1,
    2**31,
    2**63,
    10**18,
    10**400,
    -(2**63),
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    -float("inf"),
]
OTHERS = [None, True, False, [], {}, [5], [None], {"a": 1}, [[[]]], {"": None}]
_DEEP = 200_000


def value(draw: random.Random) -> Any:
    """A value that hardly any key expects."""
    return copy.deepcopy(draw.choice(draw.choice([WORDS, NUMBERS, OTHERS])))


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a value of JSON."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place for key, item in inside for place in [(*path, key), *places(item, (*path, key))]]


def changed(content: Any, draw: random.Random) -> Any:
    """A copy with one value changed, removed, renamed, doubled or nested."""
    content = copy.deepcopy(content)
    known = places(content)
    if not known:
        return value(draw)
    path = draw.choice(known)
    above = content
    for key in path[:-1]:
        above = above[key]
    last, kind = path[-1], draw.randrange(8)
    if kind == 0:
        del above[last]
    elif kind == 1 and isinstance(above, dict):
        above[draw.choice([f"{last}x", str(last).upper(), "", "\x1b[2J", "unknown"])] = above.pop(last)
    elif kind == 2 and isinstance(above, list):
        above.insert(last, copy.deepcopy(above[last]))
    elif kind == 3:
        above[last] = [above[last]]
    elif kind == 4 and isinstance(above[last], int | float):
        above[last] = draw.choice(
            [-above[last], above[last] + 1, above[last] * 10**9, str(above[last]), above[last] + 0.5]
        )
    else:
        above[last] = value(draw)
    return content


def bytes_changed(data: bytes, draw: random.Random) -> bytes:
    """The bytes of a file after an accident of disks, transfers and editors."""
    kind, size = draw.randrange(10), len(data)
    at = draw.randrange(size) if size else 0
    if kind == 0:
        return data[:at]
    if kind == 1:
        return b""
    if kind == 2:
        return data[:at] + data[min(size, at + draw.choice([1, 7, 512])) :]
    if kind == 3:
        return data[:at] + draw.randbytes(draw.choice([1, 7, 512])) + data[at:]
    if kind == 4:
        return data + draw.choice([b"\0" * 512, b"\n", data, b"}"])
    if kind == 5:
        return draw.choice([b"\xff\xfe", b"\xef\xbb\xbf", b"\x1f\x8b"]) + data
    if kind == 6:
        length = min(size - at, draw.choice([4, 64, 512]))
        return data[:at] + b"\0" * length + data[at + length :]
    if kind == 7:
        return draw.choice(
            [
                b"<html><body>Sign in</body></html>",
                b"version https://git-lfs.github.com/spec/v1\n",
                b"null",
                b"[]",
                b"{}",
                b"0",
            ]
        )
    flipped = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 8])):
        if size:
            flipped[draw.randrange(size)] ^= 1 << draw.randrange(8)
    return bytes(flipped)


def deep(draw: random.Random) -> bytes:
    """JSON and YAML that is nested deeper than any reader goes, or wider than any needs."""
    return draw.choice(
        [b"[" * _DEEP, b'{"a":' * _DEEP, b"[" + b"[]," * _DEEP + b"[]]", b'{"a": ' + b"9" * 50_000 + b"}"]
    )


def damage_json(path: Path, draw: random.Random) -> str:
    """Damage a file of JSON in place; returns what was done to it."""
    return _damage(path, draw, json.loads, lambda content: json.dumps(content).encode())


def damage_yaml(path: Path, draw: random.Random) -> str:
    """Damage a file of YAML in place; returns what was done to it."""
    if draw.random() < 0.2:
        text = path.read_text()
        lines = text.splitlines()
        number = draw.randrange(len(lines))
        lines[number] = draw.choice(_LINES).format(line=lines[number], key=lines[number].split(":")[0])
        path.write_text("\n".join(lines))
        return f"line {number + 1}: {lines[number][:40]!r}"
    return _damage(path, draw, yaml.safe_load, lambda content: yaml.safe_dump(content, allow_unicode=True).encode())


def damage_bytes(path: Path, draw: random.Random) -> str:
    """Damage the bytes of any file in place; returns what was done to it."""
    path.write_bytes(bytes_changed(path.read_bytes(), draw))
    return "bytes"


_LINES = [
    "\t{line}",
    "  {line}",
    "{key}: !!int x",
    "{key}: 2001-99-99",
    "{key}: !!python/object/apply:os.system [true]",
    "{key}: *missing",
    "{key}: &a [*a]",
    "{key}: {{[a]: b}}",
    "{key}: !!set {{a, b}}",
    "{line}\n{line}",
    "{key}: " + "9" * 5000,
    "{key}: .inf",
    "? {line}",
    "%YAML 9.9",
]
"""What becomes of a line of YAML, and of its key."""


def _damage(path: Path, draw: random.Random, load: Callable[[str], Any], dump: Callable[[Any], bytes]) -> str:
    kind = draw.randrange(10)
    if kind == 0:
        path.write_bytes(deep(draw))
        return "deep"
    if kind <= 2:
        return damage_bytes(path, draw)
    if kind == 3:
        path.write_bytes(path.read_text().encode(draw.choice(["utf-16", "utf-32", "utf-8-sig"])))
        return "encoding"
    path.write_bytes(dump(changed(load(path.read_text()), draw)))
    return "value"
