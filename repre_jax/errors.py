"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """One clear sentence: what is wrong, where, and what to do.

    ``main.py`` prints it without a traceback and exits with code 2.
    """
