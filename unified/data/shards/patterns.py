"""Which shards a pattern names: folders and their manifests, tars, globs and braces."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unified.core.errors import DataError, quoted
from unified.core.folders import is_hidden, subfolders
from unified.core.json_files import parse_json, read_bytes
from unified.core.locations import is_remote, shown
from unified.core.version import check_format
from unified.data.shards.braces import expand_braces

MANIFEST = "manifest.json"
MOST_MANIFEST = 1 << 25
"""Bytes: some 150,000 shards."""
FORMAT = 1
COMPRESSED = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst")
KINDS: dict[str, type] = {
    **dict.fromkeys(("shards", "classes", "skeleton", "flip", "skipped"), list),
    **dict.fromkeys(("columns", "groups", "positives", "frames", "class_counts", "held_out"), dict),
    "samples": int,
    "kind": str,
}
"""Of the values in a manifest that are read somewhere."""
SHARD_KINDS: dict[str, type] = {"path": str, "samples": int, "bytes": int, "sha256": str}
COUNTS = ("columns", "frames", "class_counts")
_EXPECTED: dict[type, str] = {list: "a list", dict: "a mapping", int: "a whole number from 0", str: "a text"}
_SHA256 = re.compile("[0-9a-f]{64}")
_MAGIC = re.compile(r"[*?\[]")


def shard_paths(patterns: str | Path | Sequence[str | Path]) -> list[Path]:
    """The tars of this machine that `patterns` name, in order; every pattern must name at least one that exists."""
    for pattern in several(patterns):
        if is_remote(pattern):
            raise DataError(f"{shown(pattern)}: a URL; shards are checked and indexed where they lie, as files")
    return [path for pattern in several(patterns) for path in local_shards(pattern)]


def several(patterns: str | Path | Sequence[str | Path]) -> list[str]:
    """One pattern or some, as a list that is not empty."""
    found = [str(pattern) for pattern in ([patterns] if isinstance(patterns, str | Path) else patterns)]
    if not found:
        raise DataError("no shard pattern given; expected a folder, a tar, a glob, braces or a URL")
    return found


def local_shards(pattern: str) -> list[Path]:
    """The tars of this machine that one pattern names; what exists by this very name comes before any pattern."""
    if Path(pattern).is_dir():
        return _folder(Path(pattern))
    if Path(pattern).is_file():
        return [Path(pattern)]
    found: list[Path] = []
    above, rest = _named_part(Path(pattern))
    for name in expand_braces(str(rest)):
        matches = sorted(_glob(above, name), key=natural) if _MAGIC.search(name) else [above / name]
        if not matches or not matches[0].is_file():
            raise DataError(
                f"{pattern}: no shard {above / name}; expected a folder, a tar, a glob, or braces such as "
                "{000..012}.tar"
            )
        found += matches
    return found


def _named_part(path: Path) -> tuple[Path, Path]:
    """The folders at the beginning of a pattern that exist as they are written, brackets and braces included."""
    above = Path(path.anchor)
    parts = path.parts[bool(path.anchor) :]
    for place, part in enumerate(parts[:-1]):
        if not (above / part).is_dir():
            return above, Path(*parts[place:])
        above /= part
    return above, Path(parts[-1])


def _glob(above: Path, pattern: str) -> list[Path]:
    """The paths below a folder that a glob names: folders in it that exist as they are written are taken so."""
    first, *rest = Path(pattern).parts
    if first == "**" or not rest:
        return [path for path in above.glob(pattern) if first.startswith(".") or not is_hidden(path.name)]
    folders = [above / first] if (above / first).is_dir() or not _MAGIC.search(first) else above.glob(first)
    return [path for folder in folders if folder.is_dir() for path in _glob(folder, str(Path(*rest)))]


def _folder(folder: Path) -> list[Path]:
    """The tars that a folder's manifest lists, or all that lie in it, by number."""
    if (folder / MANIFEST).is_file():
        found = [folder / shard["path"] for shard in read_manifest(folder)["shards"]]
        for path in found:
            if not path.is_file():
                raise DataError(f"{path}: listed in {MANIFEST} but missing; copy it again or rebuild the folder")
        return found
    found = sorted(tars_in(folder), key=natural)
    if packed := _compressed(folder):
        raise DataError(
            f"{folder}: expected plain tars, got {len(packed)} compressed ones, such as {packed[0]}. Hint: unpack "
            "them, as with gunzip"
        )
    if not found:
        inner = [path.name for path in subfolders(folder) if _has_tars(path)]
        hint = f"name one of its parts: {', '.join(inner)}" if inner else "expected *.tar files"
        raise DataError(f"{folder}: no shards in this folder; {hint}")
    return found


def tars_in(folder: Path) -> Iterator[Path]:
    """The tars that lie in a folder, in no order; hidden ones, such as `._0.tar` of macOS, are none."""
    return (path for path in folder.glob("*.tar") if not is_hidden(path.name))


def _has_tars(folder: Path) -> bool:
    return any(tars_in(folder)) or bool(_compressed(folder))


def _compressed(folder: Path) -> list[str]:
    """The names of compressed tars that do not lie there unpacked, too."""
    names = (path.name for path in folder.iterdir() if path.name.lower().endswith(COMPRESSED))
    found = sorted(name for name in names if not is_hidden(name))
    return [name for name in found if not (folder / f"{name[: name.lower().rindex('.t')]}.tar").is_file()]


def parts(path: str | Path) -> list[str | Path]:
    """The folders of shards that lie in a folder of splits, or `path` alone where it is no such folder."""
    folder = Path(path)
    if not folder.is_dir() or (folder / MANIFEST).is_file() or _has_tars(folder):
        return [path]
    return [inner for inner in subfolders(folder) if _has_tars(inner)] or [path]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of shards. Raises `DataError` where it is damaged or of a newer format."""
    path = folder / MANIFEST
    try:
        content = read_bytes(path, MOST_MANIFEST)
    except OSError as error:
        raise DataError(f"{path}: not a manifest of shards ({type(error).__name__}: {error})") from error
    return parse_manifest(content, str(path))


def parse_manifest(content: bytes, name: str) -> dict[str, Any]:
    """A manifest from its bytes; `name` begins every error message."""
    manifest = parse_json(content, name)
    check_format(manifest.get("format"), FORMAT, name)
    _check_kinds(manifest, KINDS, name)
    for number, shard in enumerate(manifest.get("shards", ())):
        where = f"{name}: shards[{number}]"
        if not isinstance(shard, dict) or "path" not in shard:
            raise DataError(f"{where}: expected a mapping with `path`, got {quoted(shard)}")
        _check_kinds(shard, SHARD_KINDS, where)
        path = Path(shard["path"])
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{name}: lists shards outside its folder")
        if "sha256" in shard and not _SHA256.fullmatch(shard["sha256"]):
            raise DataError(f"{where}.sha256: expected 64 hexadecimal digits, got {quoted(shard['sha256'])}")
    if "shards" not in manifest:
        raise DataError(f"{name}: not a manifest of shards, as it has no `shards`")
    return dict(manifest)


def _check_kinds(content: Mapping[str, Any], kinds: Mapping[str, type], where: str) -> None:
    """Refuse values of other kinds; numbers are whole and not below 0, mappings of columns hold such numbers."""
    for key, kind in kinds.items():
        if key not in content:
            continue
        value = content[key]
        fits = isinstance(value, kind) and not (isinstance(value, int) and (isinstance(value, bool) or value < 0))
        if kind is dict and key in COUNTS and fits:
            fits = all(isinstance(count, int) and not isinstance(count, bool) for count in value.values())
        if not fits:
            raise DataError(f"{where}: {key}: expected {_EXPECTED[kind]}, got {quoted(value)}")


def natural(path: Path) -> list[tuple[int, int, str]]:
    """A sort key under which 2.tar comes before 10.tar."""
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(part), part) if part.isdecimal() else (0, 0, part) for part in parts]
