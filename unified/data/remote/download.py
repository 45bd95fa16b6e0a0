"""Files from URLs, checked: what fails and may pass is tried again, later each time, and goes on from what is there."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO

from unified.core.distributed import rank
from unified.core.locations import shown
from unified.core.log import logger
from unified.core.seed import generator
from unified.data.remote.transfer import CHUNK, TransferError, UnavailableError, opened

FIRST_WAIT, LONGEST_WAIT = 0.5, 300.0
"""Seconds before the first retry (doubled with each) and at most, also where the server asks for more."""


class Stopped(Exception):  # noqa: N818 (no error: someone asked for it)
    """A transfer that its caller has ended."""


@dataclass(frozen=True)
class Patience:
    """How long to try: `retries` in a row that bring nothing new, `timeout` seconds without a connection or a byte."""

    retries: int
    timeout: float


class Attempts:
    """Counts the failures in a row of one transfer and waits between them, longer each time."""

    def __init__(self, url: str, patience: Patience, stop: threading.Event | None = None) -> None:
        self.url, self.patience = url, patience
        self._stop = stop or threading.Event()
        self._failures = 0

    def failed(self, error: TransferError, *, progress: bool = False) -> None:
        """Wait for the next attempt, or raise `UnavailableError` where they are used up; `progress`: it was of use."""
        self._failures = 1 if progress else self._failures + 1
        if self._failures > self.patience.retries:
            raise UnavailableError(
                f"{shown(self.url)}: given up after {self._failures} attempts in a row; the last: {error}. "
                "Start again when the source answers: what has arrived is kept (data.retries, data.timeout)"
            ) from error
        jitter = 0.5 + generator("retry", self.url, self._failures, rank()).random()
        wait = min(max(FIRST_WAIT * 2 ** (self._failures - 1) * jitter, error.wait), LONGEST_WAIT)
        logger.warning(
            "%s: %s; trying again in %.1f s (%d of %d)",
            *(shown(self.url), error, wait, self._failures, self.patience.retries),
        )
        self._stop.wait(wait)
        self.check()

    def check(self) -> None:
        """Raise `Stopped` where the caller has ended the transfer."""
        if self._stop.is_set():
            raise Stopped


def read_bytes(url: str, patience: Patience, most: int | None = None) -> bytes:
    """The content of a small file, or its first `most` bytes."""
    attempts = Attempts(url, patience)
    while True:
        try:
            with opened(url, 0, patience.timeout) as stream:
                content = bytearray()
                for chunk in stream.chunks:
                    content += chunk
                    if most is not None and len(content) >= most:
                        break
            wanted = 0 if stream.total is None else min(stream.total, most or stream.total)
            if len(content) < wanted:
                raise TransferError(f"ended after {len(content):,} of {wanted:,} bytes")
            return bytes(content[:most])
        except TransferError as error:
            attempts.failed(error)


class Download:
    """A file in the making: begun, or left by another process, and resumed until it is whole.

    `size` and `sha256` are what it must be; where they are not known, an attempt that fails begins anew, and `room` is
    asked for room for so many bytes in all before any is written.
    """

    def __init__(
        self,
        url: str,
        file: FileIO,
        size: int | None = None,
        sha256: str | None = None,
        room: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.url, self.file, self.size, self.sha256, self.room = url, file, size, sha256, room
        self._digest, self._done = hashlib.sha256(), 0

    def run(self, patience: Patience, stop: threading.Event | None = None) -> str:
        """Transfer until the file is whole; returns its SHA-256."""
        attempts = Attempts(self.url, patience, stop)
        self._take_over()
        most = self._done
        while True:
            try:
                self._attempt(patience.timeout, attempts)
                return self._digest.hexdigest()
            except TransferError as error:
                attempts.failed(error, progress=self._done > most)
                most = max(most, self._done)
                if self.sha256 is None or self._mismatch():
                    self._begin()

    def _take_over(self) -> None:
        """Go on from the bytes in the file, as far as they can be checked."""
        if self.sha256 is None:
            self._begin()
        self.file.seek(0)
        while chunk := self.file.read(CHUNK):
            self._digest.update(chunk)
            self._done += len(chunk)
        if self._mismatch():
            self._begin()

    def _begin(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self._digest, self._done = hashlib.sha256(), 0

    def _attempt(self, timeout: float, attempts: Attempts) -> None:
        total = self.size
        if total is None or self._done < total:
            with opened(self.url, self._done, timeout) as stream:
                if stream.start != self._done:
                    self._begin()
                if None not in (stream.total, total) and stream.total != total:
                    raise TransferError(f"found {stream.total:,} bytes, but {total:,} in its manifest or index")
                total = stream.total if total is None else total
                if total is not None:
                    self.room(total)
                for chunk in stream.chunks:
                    if total is not None and self._done + len(chunk) > total:
                        self._begin()
                        raise TransferError(f"found more than {total:,} bytes")
                    self.room(self._done + len(chunk))
                    self._write(chunk)
                    attempts.check()
        if total is not None and self._done < total:
            raise TransferError(f"ended after {self._done:,} of {total:,} bytes")
        if problem := self._mismatch():
            raise TransferError(problem)
        self.file.truncate(self._done)  # without the room that was not needed

    def _mismatch(self) -> str | None:
        """What shows that the bytes so far cannot become the file that is expected."""
        if self.size is None or self._done < self.size:
            return None
        if self._done > self.size:
            return f"found more than the {self.size:,} bytes that its manifest or index names"
        found = self._digest.hexdigest()
        return None if found == self.sha256 else f"SHA-256 {found}, but {self.sha256} in its manifest or index"

    def _write(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        view = memoryview(chunk)
        while view:
            view = view[self.file.write(view) :]
        self._done += len(chunk)
