"""The one error that this package raises on purpose."""


class TrackingError(RuntimeError):
    """A tracking call that cannot be right: a bad name, a folder in use, a run that is not there."""
