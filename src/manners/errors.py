"""The one exception that a user is meant to read."""


class MannersError(Exception):
    """Something the user can mend. The message is one line: what is wrong and what to do about it.

    The command line prints the message without a traceback and exits with a code that is not 0. Defects of the program itself
    are never raised as this class.
    """
