"""The exceptions that the command line explains in a message of their own."""


class UserError(ValueError):
    """A mistake in the user's data, configuration or command.

    The message names the argument, or the file and row, what was found, what is
    allowed and how to mend it. The command line prints it alone, without a
    traceback, and leaves with exit status 2.
    """


class ExportError(RuntimeError):
    """An export could not be proved equal to the model; none was left behind."""
