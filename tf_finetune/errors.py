"""The one exception that says: the user can mend this."""


class UserError(ValueError):
    """A mistake in the user's data, configuration or command.

    The message names the argument, or the file and row, what was found, what is
    allowed and how to mend it. The command line prints it alone, without a
    traceback, and leaves with exit status 2.
    """
