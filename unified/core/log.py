"""Messages for people, from rank 0 only."""

import logging
import sys

from unified.core.errors import escaped, printable
from unified.core.locations import shown

logger = logging.getLogger("unified")


class _Printable(logging.Filter):
    """Makes each record what may be printed, whoever listens."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable(record.getMessage()), ()
        return True


class Lines(logging.Formatter):
    """Records as they may be printed, also those that come past the logger, with their traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record without secrets and control characters."""
        return escaped(shown(super().format(record)))


class _RankZero(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR or "torch.distributed" not in sys.modules:
            return True
        from unified.core.distributed import (
            rank,  # not above: help and versions are told without torch, which takes seconds
        )

        return rank() == 0


logger.addFilter(_Printable())


def set_up(level: int = logging.INFO) -> None:
    """Print the package's messages to standard error, one line each; commands call this, the library never does."""
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(Lines("%(message)s"))
        handler.addFilter(_RankZero())
        logger.addHandler(handler)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Lines())  # what clients of servers warn of quotes addresses
    logger.setLevel(level)
