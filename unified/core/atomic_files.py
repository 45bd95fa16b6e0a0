"""Files that are there whole or not at all, whenever their writer ends, and what is said where that fails."""

import contextlib
import errno
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_OF_RUST = re.compile(r"^(?:.*: )?(?P<reason>[^:]+) \(os error (?P<number>\d+)\)")
"""How safetensors and tokenizers, which are written in Rust, tell errors of the operating system."""
_PASSING = re.compile(r"\.part(ial)?\b")
_ROOM = "make room on the disk, or name another place"
_HINTS = {
    **dict.fromkeys(("No space left on device", "Disk quota exceeded"), _ROOM),
    "File too large": "name a place that holds such files; `ulimit -f` may limit them, too",
    **dict.fromkeys(("Read-only file system", "Permission denied"), "name a place that this user can write to"),
    "Not a directory": "name a folder, and no file in place of one",
}
"""Next steps, by what the operating system says."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[Any]]:
    """Open a file for bytes that takes the place of `path` at the end of the block, or never where that raises.

    Raises:
        OSError: It cannot be written, or `path` is a folder, a device or a pipe; the error names `path`.
    """
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or a pipe"
        raise OSError(errno.EINVAL, f"expected a file or none, got {kind}", str(path))
    # Of one thread, as threads of a process may write the same file at once.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    with naming(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with contextlib.suppress(NotADirectoryError):
                temporary.unlink(missing_ok=True)


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Args:
        path: The file; one that is there is replaced.
        content: Its bytes, or its text, which is written as UTF-8.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """Let files be written that go to `folder` together at the end of the block, or never where that raises.

    Args:
        folder: It is made where there is none; files in it that are not written anew stay.

    Yields:
        A folder inside of it, which may be the only place on this disk where writing is allowed.
    """
    new = not folder.exists()
    part = folder / f".{os.getpid()}-{threading.get_ident()}.partial"
    try:
        with naming(folder):
            part.mkdir(parents=True)
            yield part
            for path in sorted(path for path in part.rglob("*") if path.is_file()):
                target = folder / path.relative_to(part)
                target.parent.mkdir(exist_ok=True)
                path.replace(target)
    except BaseException:
        shutil.rmtree(folder if new else part, ignore_errors=True)
        raise
    shutil.rmtree(part)


def reason(error: BaseException) -> str | None:
    """Return in one line why the operating system did not do something; None where it is no error of its.

    Args:
        error: Of Python, or of the libraries in Rust that write weights and tokenizers.
    """
    if not isinstance(error, OSError):
        found = _OF_RUST.match(str(error))
        return f"expected to write a file, got: {_with_hint(found['reason'])}" if found else None
    if error.strerror is None:
        return str(error)
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' -> '.join(names) or 'a file'}: {_with_hint(error.strerror)}"


def _with_hint(text: str) -> str:
    return f"{text}. Hint: {_HINTS[text]}" if text in _HINTS else text


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the operating system name what people asked for, and not a passing name, or none.

    Args:
        path: What is written in the block.

    Raises:
        OSError: In place of each that names another path, and of those of libraries in Rust.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or _PASSING.search(str(error.filename))):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    except Exception as error:
        if found := _OF_RUST.match(str(error)):
            raise OSError(int(found["number"]), found["reason"].removeprefix("I/O error: "), str(path)) from error
        raise
