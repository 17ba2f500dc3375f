"""Work on many files by all the cores that this process may use."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from reid.data.crops import Progress, silent
from reid.limits import cores

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def in_threads(
    work: Callable[[T], R], items: Sequence[T], progress: Progress = silent, what: str = ""
) -> Iterator[Iterable[R]]:
    """What `work` gives for each item, in their order.

    Threads: PIL lets go of the interpreter lock while it decodes and resizes, which is all the work.
    """
    with ThreadPoolExecutor(cores()) as pool:
        try:
            yield progress(pool.map(work, items), len(items), what)
        except BaseException:  # Ctrl-C too: do not make it wait for all images still to come
            pool.shutdown(cancel_futures=True)
            raise
