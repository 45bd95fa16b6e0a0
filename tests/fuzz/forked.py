"""One input, tried in a forked child of a warm process: what came of it, within limits of time and memory."""

import json
import os
import re
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from unified.core.errors import UserError

OUTCOMES = ("clear", "right", "traceback", "unclear", "hang", "memory", "silent")
"""Of an input: refused in a clear line, read rightly, or one of five faults (a crash counts as a traceback)."""
FAULTS = OUTCOMES[2:]
SECONDS = 15.0
RESIDENT_BYTES = 2 << 30
_LOOK_EVERY = 0.05
_MOST_LINES = 60
_UNCLEAR = re.compile(
    r"Traceback|<class '|object at 0x|(Posix|Windows)Path\(|<function |[\x00-\x08\x0b-\x1f\x7f]|For full helptext"
)


@dataclass(frozen=True)
class Outcome:
    """What came of an input, and what was said."""

    kind: str
    told: str


def attempt(enter: Callable[[], bool], printed: Path) -> Outcome:
    """Call `enter` in a child process.

    Args:
        enter: Reads one input. It returns whether what was read is right, or raises.
        printed: Takes what the child prints.

    Returns:
        The outcome; the child has ended.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(enter, writing, printed)
    os.close(writing)
    began, told, fault = time.monotonic(), b"", ""
    while not fault:
        if select.select([reading], [], [], _LOOK_EVERY)[0]:
            piece = os.read(reading, 1 << 16)
            told += piece
            if not piece:
                break
        if time.monotonic() - began > SECONDS:
            fault = "hang"
        elif _resident(child) > RESIDENT_BYTES:
            fault = "memory"
    os.close(reading)
    if fault:
        os.killpg(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    if not fault and usage.ru_maxrss * 1024 > RESIDENT_BYTES:
        fault = "memory"
    if fault:
        return Outcome(fault, f"after {time.monotonic() - began:.0f} s, at most {usage.ru_maxrss >> 10:,} MiB")
    if not told:
        return Outcome("traceback", f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "ended")
    return Outcome(*json.loads(told))


def _child(enter: Callable[[], bool], writing: int, printed: Path) -> NoReturn:
    os.setpgid(0, 0)
    out = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        kind, told = ("right", "") if enter() else ("silent", "read as something else")
    except UserError as error:
        kind, told = ("clear" if is_clear(str(error)) else "unclear"), str(error)
    except SystemExit as end:
        kind, told = _ended(end, printed)
    except BaseException:  # noqa: BLE001 - whatever it is, it is what this looks for
        kind, told = "traceback", traceback.format_exc()[-3000:]
    os.write(writing, json.dumps([kind, told]).encode())
    os._exit(0)


def _ended(end: SystemExit, printed: Path) -> tuple[str, str]:
    """The outcome of a command: its message, or the last line that it printed."""
    if not end.code:
        return "right", ""
    sys.stdout.flush()
    sys.stderr.flush()
    lines = printed.read_text(errors="replace").strip().splitlines()
    told = end.code if isinstance(end.code, str) else "\n".join(lines[-1:])
    return ("clear" if is_clear(told) else "unclear"), told


def is_clear(message: str) -> bool:
    """Whether a refusal says where and what, in words: `{where}: …`, on one line or with a list below it."""
    lines = message.splitlines()
    return bool(lines) and ": " in f"{lines[0]} " and len(lines) <= _MOST_LINES and not _UNCLEAR.search(message)


def _resident(process: int) -> int:
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    except (OSError, IndexError):  # it has ended
        return 0
    return int(pages) * resource.getpagesize()
