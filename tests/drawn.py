"""How examples are drawn: the same few at every run, or thousands by chance (`make test-outside`).

REID_EXAMPLES=2000 draws so many of each test, by another seed each time; one that fails is printed with what
brings it back.
"""

import os

from hypothesis import HealthCheck, settings

#: How many times the examples of a test the environment wants.
_EXAMPLES = int(os.environ.get("REID_EXAMPLES", "0"))


def examples(count: int) -> settings:
    """The settings of a test with so many examples in the suite."""
    return settings(
        max_examples=_EXAMPLES or count,
        derandomize=not _EXAMPLES,
        print_blob=bool(_EXAMPLES),
        database=None,  # it would lie in the working folder
        deadline=None,  # of a busy machine
        suppress_health_check=list(HealthCheck),
    )
