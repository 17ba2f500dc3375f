"""The process that reads mutated files, since a file may bring it down: a specimen a line, an answer each.

python -m experiments.mutations.reader FOLDER SPECIMEN…
"""

import json
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

from experiments.mutations.outcome import CODE, READ, Watch, read_once
from experiments.mutations.specimens import SPECIMENS


def main() -> None:
    folder = Path(sys.argv[1])
    os.chdir(folder)
    warnings.simplefilter("ignore")
    specimens = {specimen.name: specimen for specimen in SPECIMENS if specimen.name in sys.argv[2:]}
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    watch = Watch()
    for name in [*specimens, *specimens]:  # what is imported and cached late is not the file's doing
        original = read_once(specimens[name], folder / name, watch)
        if original.kind != READ and original.kind != CODE:
            raise SystemExit(f"{name} itself is not read: {original.says}")
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        name = json.loads(line)
        outcome = read_once(specimens[name], folder / name, watch)
        print(json.dumps(asdict(outcome)), file=answers, flush=True)


if __name__ == "__main__":
    main()
