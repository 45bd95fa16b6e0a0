"""Runs sections one after the other, each within its limit and all within a deadline; nothing that one does ends it.

Standard library alone: it works where torch does not.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from benchmarks.gpu.sections import Section

Row = dict[str, Any]
Command = Callable[[Section, Sequence[str], float], Sequence[str]]
"""The command that measures parts of a section within so many seconds."""
LEAST = 12.0
"""Seconds that a process needs to import what it needs; with less it is not started."""
TAIL = 4000
"""Letters of what a process that ended early wrote last."""


@dataclass(frozen=True)
class Runner:
    """How sections are run, and who is told."""

    command: Command
    tell: Callable[[Row], None]
    """Given each row as soon as it is there."""
    environment: Mapping[str, str]
    least: float = LEAST

    def run(self, sections: Sequence[Section], lacking: Mapping[str, str], deadline: float) -> None:
        """All sections until `deadline` (`time.monotonic`).

        Args:
            sections: in the order in which they run.
            lacking: by module, why it cannot be imported; sections that need one are rows that say so.
            deadline: when the last process must have ended.
        """
        for section in sections:
            wanting = [f"{name} ({lacking[name]})" for name in section.needs if name in lacking]
            if wanting:
                self._all(section, section.parts, "skipped", f"needs {', '.join(wanting)}")
            else:
                self._run(section, min(time.monotonic() + section.seconds, deadline))

    def _run(self, section: Section, end: float) -> None:
        """The parts of a section, in as many processes as it takes."""
        pending = list(section.parts)
        while pending:
            left = end - time.monotonic()
            if left < self.least:
                self._all(section, pending, "left out", "time")
                return
            with tempfile.TemporaryFile() as said:
                code = self._process(section, pending, left, said)
                if pending and code is None:
                    self._row(section, pending.pop(0), "failed", f"not done after {left:.0f} s", _tail(said))
                elif pending and code != 1:
                    self._row(section, pending.pop(0), "failed", f"the process ended with code {code}", _tail(said))

    def _process(self, section: Section, pending: list[str], seconds: float, said: IO[bytes]) -> int | None:
        """One process; parts that have a row leave `pending`. Returns its code, None where its time was up."""
        process = subprocess.Popen(
            self.command(section, pending, seconds), env=dict(self.environment), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True,
        )  # fmt: skip
        end, before = time.monotonic() + seconds, len(pending)
        lines = queue.SimpleQueue[str | None]()
        assert process.stdout is not None
        with process.stdout as stream:
            reader = threading.Thread(target=_read, args=(stream, lines), daemon=True)
            reader.start()
            try:
                while (line := lines.get(timeout=max(end - time.monotonic(), 0.0))) is not None:
                    row = json.loads(line)
                    pending.remove(row["part"])
                    self.tell({"section": section.name, **row})
                code = process.wait(timeout=max(end - time.monotonic(), 0.0))
            except (queue.Empty, subprocess.TimeoutExpired):
                code = None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # and the loader processes that it may have left
                process.wait()
                reader.join()
        # A process that fails before its first row would be started for ever.
        return -1 if code == 1 and len(pending) == before else code

    def _all(self, section: Section, parts: Sequence[str], status: str, reason: str) -> None:
        for part in parts:
            self._row(section, part, status, reason)

    def _row(self, section: Section, part: str, status: str, reason: str, said: str = "") -> None:
        row = {"section": section.name, "part": part, "status": status, "reason": reason}
        self.tell(row | ({"traceback": said} if said else {}))


def _read(stream: IO[str], lines: "queue.SimpleQueue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _tail(said: IO[bytes]) -> str:
    said.seek(0)
    return said.read().decode(errors="replace")[-TAIL:]
