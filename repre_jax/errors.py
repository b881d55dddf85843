"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """One clear sentence: what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """
