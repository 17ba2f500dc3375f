"""Several models or features as one, measured: `python -m reid.fuse 'models=[a.pt,b.pt]'`."""

from reid.jobs.launch import launch


def main() -> None:
    """The command `python -m reid.fuse` and `reid-fuse`."""
    launch("fuse", "reid.commands.fuse:run")


if __name__ == "__main__":
    main()
