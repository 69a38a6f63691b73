"""Errors that a user can mend."""


class UserError(Exception):
    """A mistake in the user's input: one line that names the file, key or row and what to do.

    Both command lines print the message without a traceback and exit with 2.
    """
