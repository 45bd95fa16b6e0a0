"""The version of the package, and those of the files that it writes."""

from typing import Any

from unified.core.errors import DataError, UserError, quoted

__version__ = "0.1.0.dev0"


def check_format(found: Any, newest: int, where: str, error: type[UserError] = DataError, *, hint: str = "") -> None:
    """Refuse a file whose format is none that this version reads.

    Args:
        found: What the file says.
        newest: The newest format that is read; older ones, from 1, are too.
        where: The file, as an error names it.
        error: What is raised.
        hint: What helps, where it is not another version.
    """
    if type(found) is not int or not 1 <= found <= newest:
        hint = hint or f"install the version of unified that wrote it (this is {__version__})"
        raise error(f"{where}: expected a format up to {newest}, got {quoted(found)}. Hint: {hint}")
