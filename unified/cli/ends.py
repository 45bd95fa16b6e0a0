"""How commands end: with a message for people, with a status, and without a word where nobody reads on."""

import os
import select
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from unified.core import log
from unified.core.atomic_files import reason
from unified.core.errors import UserError, escaped, printable
from unified.core.locations import shown

CLOSED_PIPE = 141
"""What shells report for a program that SIGPIPE ends, as it does most programs whose output goes to `head`."""


def guarded(command: Callable[..., object], *arguments: object, **options: Any) -> None:
    """Run a command; errors that are meant for people end it with their message alone.

    All others are told with their traceback, which quotes addresses too, and which is printed without their secrets.
    """
    log.set_up()
    if sys.excepthook is sys.__excepthook__:  # that of a debugger stays
        sys.excepthook = _tell
        threading.excepthook = _tell_of_thread
    status = _status(command, arguments, options)
    # Errors hold what their functions held, and are gone only here.
    if (dist := sys.modules.get("unified.core.distributed")) is not None:
        dist.let_go()
    if status is not None:
        sys.exit(status)


def _status(
    command: Callable[..., object], arguments: Sequence[object], options: Mapping[str, Any]
) -> str | int | None:
    """Run a command; returns what it exits with, None where it ended well."""
    try:
        try:
            command(*arguments, **options)
        finally:
            sys.stdout.flush()  # here, so that a closed pipe is noticed here and not when the interpreter ends
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            # What is still to be written would fail again when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return CLOSED_PIPE
        return f"error: {printable(str(error) if isinstance(error, UserError) else str(reason(error)))}"
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130  # what shells report for a program that Ctrl-C ends
    except Exception as error:
        if (told := reason(error)) is not None:
            return f"error: {printable(told)}"
        if "RANK" not in os.environ:  # debuggers look at errors that nobody has caught
            raise
        sys.excepthook(*sys.exc_info())
        return 1
    return None


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error that nobody has caught, as Python does, without secrets and control characters."""
    sys.stderr.write(escaped(shown("".join(traceback.format_exception(kind, error, trace)))))


def _tell_of_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_value is not None and not isinstance(found.exc_value, SystemExit):
        sys.stderr.write(f"Exception in thread {'' if found.thread is None else found.thread.name}:\n")
        _tell(found.exc_type, found.exc_value, found.exc_traceback)


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has gone; other pipes break for reasons that must be told."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # standard output is no file
        return False
    poll = select.poll()
    poll.register(number, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
