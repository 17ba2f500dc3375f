"""The format numbers of files that outlive a version of the suite, and what is said of one that is too new.

Each kind of file counts for itself, from 1. A file without a number is one of the first format: it was
written before there were numbers. A kind's number is raised when older code could no longer read the file, or
would read it wrongly; newer code goes on reading the older formats, or says what to do with them.
"""

from pathlib import Path
from reprlib import repr as short_repr

from reid.errors import UsageError


class FormatError(UsageError):
    """A file is of a newer format than this version reads, or its format is no number."""


def format_problem(path: Path | str, found: object, reads: int) -> str | None:
    """Why code that reads up to the format `reads` cannot read a file of the format `found`; None if it can.

    found: what stands in the file; None where it holds no number.
    """
    if found is None:
        return None
    if type(found) is not int or found < 1:
        return (
            f"{path} is damaged, or no file of this suite: its format is {short_repr(found)}, expected a "
            "whole number from 1. Take a copy of it, or make it anew"
        )
    if found > reads:
        return (
            f"{path} was made by a newer version of the suite: it has format {found}, and this version reads "
            f"up to {reads}. Update the suite, or use the version that wrote the file"
        )
    return None
