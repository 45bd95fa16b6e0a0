"""How commands end: with a message for people, with a status, and without a word where nobody reads on."""

import os
import select
import sys
from collections.abc import Callable
from typing import Any

from unified import log
from unified.errors import UserError

CLOSED_PIPE = 141
"""What shells report for a program that SIGPIPE ends, as it does most programs whose output goes to `head`."""


def guarded(command: Callable[..., object], *arguments: object, **options: Any) -> None:
    """Run a command; errors that are meant for people end it with their message alone."""
    log.set_up()
    try:
        try:
            command(*arguments, **options)
        finally:
            sys.stdout.flush()  # here, so that a closed pipe is noticed here and not when the interpreter ends
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            # What is still to be written would fail again when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(CLOSED_PIPE)
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)  # what shells report for a program that Ctrl-C ends


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has gone; other pipes break for reasons that must be told."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # standard output is no file
        return False
    poll = select.poll()
    poll.register(number, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
