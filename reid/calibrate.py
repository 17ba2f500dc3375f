"""How sure that two images show one person: `python -m reid.calibrate checkpoint=… [method=isotonic]`."""

from reid.jobs.launch import launch


def main() -> None:
    """The command `python -m reid.calibrate` and `reid-calibrate`."""
    launch("calibrate", "reid.commands.calibrate:run")


if __name__ == "__main__":
    main()
