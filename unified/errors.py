"""Errors that are meant for people: a command ends with their message alone, without a traceback."""


class UserError(ValueError):
    """Something that a user gave cannot be; the message says where, what was found, what fits, and the next step."""
