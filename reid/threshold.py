"""Same person or another, measured: `python -m reid.threshold checkpoint=… [target=far_1e-3]`."""

from reid.jobs.launch import launch


def main() -> None:
    """The command `python -m reid.threshold` and `reid-threshold`."""
    launch("threshold", "reid.commands.threshold:run")


if __name__ == "__main__":
    main()
