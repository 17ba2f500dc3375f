"""Who is it, or nobody, measured: `python -m reid.identify checkpoint=… [target=fpir_1e-2]`."""

from reid.jobs.launch import launch


def main() -> None:
    """The command `python -m reid.identify` and `reid-identify`."""
    launch("identify", "reid.commands.identify:run")


if __name__ == "__main__":
    main()
