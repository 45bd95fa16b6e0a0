"""What kinds of answers of other packages bring along: their evaluation and their drawing."""

from importlib import import_module
from typing import Any

from unified.answers.kind import AnswerKind
from unified.core.errors import UserError


def extension(kind: AnswerKind, attribute: str, expected: type) -> Any:
    """Return what a kind brings along under an attribute; None where it brings nothing.

    Args:
        kind: The kind of answer.
        attribute: Its attribute: an object, or "package.module:NAME", which is imported when it is asked for.
        expected: Class of the object.

    Raises:
        UserError: The module cannot be imported, or has no such object.
    """
    given = getattr(kind, attribute)
    if given is None or isinstance(given, expected):
        return given
    where = f"{attribute} of the kind of answer {kind.name!r}"
    module, _, name = given.partition(":") if isinstance(given, str) else ("", "", "")
    if not (module and name):
        raise UserError(f"{where}: expected package.module:NAME or a {expected.__name__}, got {given!r}")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:
        raise UserError(f"{where}: expected {given} to be imported, got {type(error).__name__}: {error}") from error
    if not isinstance(found, expected):
        raise UserError(f"{where}: expected {given} to be a {expected.__name__}, got a {type(found).__name__}")
    return found
