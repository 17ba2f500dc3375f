"""Adapt a trained model to cameras without labels: `python -m reid.adapt checkpoint=… dataset=…`.

The same command again goes on where it was stopped. `adapt.batch_norm_only=true` is the cheap first step.
"""

from reid.jobs.launch import launch


def main() -> None:
    """The command `python -m reid.adapt` and `reid-adapt`."""
    launch("adapt", "reid.commands.adapt:run")


if __name__ == "__main__":
    main()
