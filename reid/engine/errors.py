"""What is wrong with a checkpoint, without torch: what names one is refused before anything is read."""

from reid.errors import UsageError


class CheckpointError(UsageError, ValueError):
    """The file is not there, not a checkpoint of this suite, or not of this run."""
