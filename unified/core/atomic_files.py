"""Files that are there whole or not at all, whenever their writer ends."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[Any]]:
    """Open a file for bytes that takes the place of `path` at the end of the block, or never where that raises."""
    # Of one thread, as threads of a process may write the same file at once.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Args:
        path: The file; one that is there is replaced.
        content: Its bytes, or its text, which is written as UTF-8.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
