"""Train a model and track the run: `python -m reid.train [key=value …]`, `--help` for the choices."""

from reid.jobs.launch import launch


def main() -> None:
    """The command `python -m reid.train` and `reid-train`."""
    launch("train", "reid.commands.train:run", together=True)


if __name__ == "__main__":
    main()
