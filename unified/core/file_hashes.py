"""SHA-256 of files, remembered by this machine: a file is read again only where its size or its times have changed.

What is remembered lies in a folder of its own, which may be damaged, read-only or lost at any time: files are read
again then. Times are those of the content and of the entry (mtime and ctime, in ns), as programs that copy or edit may
set the former back.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unified.core.atomic_files import replace_file
from unified.core.errors import DataError
from unified.core.json_files import read_json
from unified.core.log import logger

FORMAT = 1
SMALL_BYTES = 1 << 20
"""Files up to this size are read each time, which takes about a millisecond."""
SETTLED_NS = 2 * 10**9
"""Age from which on the times of a file tell: file systems count them in steps of up to 2 s (FAT)."""
MOST_BYTES = 1 << 26
_CHUNK = 1 << 20


class FileHashes:
    """The SHA-256 of files by their path; used from several threads at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._known: dict[Path, dict[str, Any]] = {}  # by the folder of the files, then by name
        self._new: dict[Path, dict[str, Any]] = {}

    def remembered(self, path: Path) -> bytes | None:
        """Return the SHA-256 of a file that was read before and has its size and times since then, or None."""
        facts = path.stat()
        if facts.st_size <= SMALL_BYTES:
            return None
        entry: Any = self._entries(path.parent.resolve()).get(path.name)
        try:
            *seen, sha256 = entry
            return bytes.fromhex(sha256) if seen == _stamp(facts) and len(sha256) == 64 else None
        except (TypeError, ValueError):
            return None

    def read(self, path: Path, told: Callable[[int], None] = lambda _: None) -> bytes:
        """Return the SHA-256 of a file after reading it.

        Args:
            path: The file.
            told: Is called with the number of bytes after each part that was read; what it raises ends the reading.
        """
        digest, buffer = hashlib.sha256(), bytearray(_CHUNK)
        begun = time.time_ns()
        with path.open("rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            while size := file.readinto(buffer):
                digest.update(memoryview(buffer)[:size])
                told(size)
            after = os.fstat(file.fileno())
        settled = begun - max(before.st_mtime_ns, before.st_ctime_ns) > SETTLED_NS
        if settled and _stamp(before) == _stamp(after) and before.st_size > SMALL_BYTES:
            with self._lock:
                self._new.setdefault(path.parent.resolve(), {})[path.name] = [*_stamp(before), digest.hexdigest()]
        return digest.digest()

    def note(self, path: Path, sha256: str) -> None:
        """Remember a file that this process has just written, and that nobody else writes to."""
        with self._lock:
            self._new.setdefault(path.parent.resolve(), {})[path.name] = [*_stamp(path.stat()), sha256]

    def save(self) -> None:
        """Write down what was read since the last time; where that fails, it is read again another time."""
        with self._lock:
            new, self._new = self._new, {}
        for folder, entries in new.items():
            self._known.pop(folder, None)  # other processes may have added to it
            entries = {**self._entries(folder), **entries}
            content = {"format": FORMAT, "folder": str(folder), "check": _check(entries), "files": entries}
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                replace_file(self._file(folder), json.dumps(content))
            except (OSError, UnicodeError) as error:
                logger.info("%s: hashes of files cannot be kept (%s); they are made again next time", folder, error)
                return

    def _entries(self, folder: Path) -> dict[str, Any]:
        with self._lock:
            if folder not in self._known:
                self._known[folder] = _read(self._file(folder))
            return self._known[folder]

    def _file(self, folder: Path) -> Path:
        return self.folder / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}.json"


def _stamp(facts: os.stat_result) -> list[int]:
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def _check(entries: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(entries, sort_keys=True).encode(), digest_size=16).hexdigest()


def _read(file: Path) -> dict[str, Any]:
    """The entries of a file; none where it is missing, damaged or of another format."""
    if not file.exists():
        return {}
    try:
        content = read_json(file, most=MOST_BYTES)
        files = content.get("files")
        if content.get("format") == FORMAT and isinstance(files, dict) and content.get("check") == _check(files):
            return files
        problem = "damaged, or of another format"
    except (DataError, OSError) as error:
        problem = str(error)
    logger.info("%s: not used (%s); files are read again", file, problem)
    return {}
