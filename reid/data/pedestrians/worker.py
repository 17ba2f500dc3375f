"""A drawing process: `python -m reid.data.pedestrians.worker FOLDER PRESET DOMAIN SEED SHARE OF`.

Started by `drawing`; writes one line to stdout for each crop drawn.
"""

import sys
from pathlib import Path
from typing import cast

from reid.data.pedestrians.drawing import draw_share
from reid.data.pedestrians.plan import DomainName, PresetName


def main(arguments: list[str]) -> None:
    """Draw one share of a set."""
    folder, preset, domain, seed, share, of = arguments
    names = cast(PresetName, preset), cast(DomainName, domain)
    for _ in draw_share(Path(folder), *names, int(seed), int(share), int(of)):
        sys.stdout.write(".\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
