"""Bytes of a URL: HTTP by the standard library, other protocols by fsspec, `pipe:` by a command."""

import base64
import os
import re
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import Request, build_opener

import fsspec

from unified.core.errors import DataError
from unified.core.locations import PIPE, shown

CHUNK = 1 << 20
_DIGITS = re.compile("[0-9]{1,19}")
AGAIN = {408, 425, 429}
"""HTTP states below 500 that may pass."""


class UnavailableError(DataError):
    """A shard that cannot be had: it ends a run, as no other sample may stand in for all of its samples."""


class RefusedError(UnavailableError):
    """It is not there, or may not be read: trying again would not help."""


class TransferError(Exception):
    """An attempt that failed and may be repeated; `wait`: the seconds that the server asks for."""

    def __init__(self, cause: str, wait: float = 0.0) -> None:
        super().__init__(cause)
        self.wait = wait


@dataclass(frozen=True)
class Stream:
    """An answer: bytes from `start` on, of `total` where that is told."""

    start: int
    total: int | None
    chunks: Iterator[bytes]


def opened(url: str, start: int, timeout: float) -> AbstractContextManager[Stream]:
    """The bytes of `url` from `start` on, or from 0 where ranges are not served.

    Raises `TransferError` for what may pass, `UnavailableError` for what will not. fsspec keeps to timeouts of its own.
    """
    if url.startswith(PIPE):
        return _pipe(url.removeprefix(PIPE), timeout)
    if url.partition(":")[0].lower() in ("http", "https"):
        return _http(url, start, timeout)
    return _filesystem(url, start)


@contextmanager
def _http(url: str, start: int, timeout: float) -> Iterator[Stream]:
    with _answer(url, start, timeout) as response:
        found = re.fullmatch(r"bytes ([0-9]{1,19})-[0-9]+/([0-9]+|\*)", response.headers.get("Content-Range", ""))
        begin = int(found[1]) if response.status == 206 and found else 0
        if response.status == 206 and begin != start:
            raise TransferError(f"asked for bytes from {start:,} on, the server sent {begin:,} on")
        length = response.headers.get("Content-Length", "")
        yield Stream(begin, begin + int(length) if _DIGITS.fullmatch(length) else None, _body(response, timeout))


def _answer(url: str, start: int, timeout: float) -> HTTPResponse:
    try:
        address, authorization = _without_user(url)
        request = Request(address, headers={"Accept-Encoding": "identity", "User-Agent": "unified"})
    except ValueError as error:
        raise RefusedError(f"{shown(url)}: expected the address of a file, got one that is none ({error})") from error
    if start:
        request.add_header("Range", f"bytes={start}-")
    if authorization:
        request.add_unredirected_header("Authorization", authorization)  # another host must not see it
    try:
        response: HTTPResponse = build_opener().open(request, timeout=timeout)
    except HTTPError as error:
        with error:
            if error.code == 416 and start:  # what is there has grown shorter; the check of the size will tell
                return _answer(url, 0, timeout)
            cause = f"HTTP {error.code} {error.reason}"
            if error.code < 500 and error.code not in AGAIN:
                raise RefusedError(f"{shown(url)}: {cause}; look at the address and at the right to read it") from None
            raise TransferError(cause, _retry_after(error.headers.get("Retry-After"))) from error
    except (URLError, HTTPException, OSError) as error:
        raise TransferError(_cause(error, timeout)) from error
    except ValueError as error:  # of the address: a port that is none, a name of a host with an empty part
        raise RefusedError(f"{shown(url)}: expected the address of a file, got one that is none ({error})") from error
    return response


def _body(response: HTTPResponse, timeout: float) -> Iterator[bytes]:
    try:
        while chunk := response.read1(CHUNK):
            yield chunk
    except (HTTPException, OSError) as error:
        raise TransferError(_cause(error, timeout)) from error


def _cause(error: Exception, timeout: float) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return f"no answer and no byte for {timeout:g} s"
    return shown(f"{type(reason).__name__}: {reason}")


def _without_user(url: str) -> tuple[str, str | None]:
    """The URL as it is asked for, and the header that carries its user and password."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    return urlunsplit(parts._replace(netloc=host)), f"Basic {base64.b64encode(unquote(user).encode()).decode()}"


def _retry_after(value: str | None) -> float:
    """Seconds of a Retry-After header: a number, or a date."""
    if not value:
        return 0.0
    if _DIGITS.fullmatch(value):
        return float(value)
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return 0.0


@contextmanager
def _filesystem(url: str, start: int) -> Iterator[Stream]:
    try:
        file = fsspec.open(url, "rb").open()
    except Exception as error:
        raise _foreign(url, error) from error
    with file:
        yield Stream(start, getattr(file, "size", None), _file_body(url, file, start))


def _file_body(url: str, file: Any, start: int) -> Iterator[bytes]:
    while True:
        try:
            if start:
                file.seek(start)
            chunk = file.read(CHUNK)
        except Exception as error:
            raise _foreign(url, error) from error
        if not chunk:
            return
        start = 0  # from here on the file is at its place
        yield chunk


def _foreign(url: str, error: Exception) -> Exception:
    """What an error of a file system says of the next attempt; each library has errors of its own."""
    cause = shown(f"{type(error).__name__}: {error}")
    if isinstance(error, ImportError | ValueError):
        return UnavailableError(f"{shown(url)}: this protocol cannot be read here ({cause}); install what it names")
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return RefusedError(f"{shown(url)}: {cause}; look at the address and at the right to read it")
    return TransferError(cause)


@contextmanager
def _pipe(command: str, timeout: float) -> Iterator[Stream]:
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            yield Stream(0, None, _output(process, timeout))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def _output(process: "subprocess.Popen[bytes]", timeout: float) -> Iterator[bytes]:
    assert process.stdout is not None
    waiting = select.poll()
    waiting.register(process.stdout, select.POLLIN)
    while waiting.poll(1000 * timeout):
        chunk = os.read(process.stdout.fileno(), CHUNK)
        if chunk:
            yield chunk
            continue
        if status := process.wait():
            raise TransferError(f"the command ended with status {status}")
        return
    raise TransferError(f"no byte of the command for {timeout:g} s")
