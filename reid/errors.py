"""The two kinds of failure that a command explains without a traceback; all errors of the suite are one."""


class UsageError(Exception):
    """What was asked for cannot be done as asked: a command prints the message and exits with 2."""


class RunError(Exception):
    """Something went wrong on the way, and the message says what and what to do: exit code 1."""
