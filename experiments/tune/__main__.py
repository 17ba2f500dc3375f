"""Search with Optuna: `python -m experiments.tune study=alpha_margin`, `--help` for the choices."""

import sys

from reid.jobs.launch import launch


def main() -> None:
    """The command `python -m experiments.tune`."""
    if {"-m", "--multirun"} & {*sys.argv[1:]}:
        sys.exit("error: a study is a search already: leave --multirun out, and search by study.space")
    launch("tune", "experiments.tune.search:run")


if __name__ == "__main__":
    main()
