"""Judge a trained model on any dataset: `python -m reid.evaluate checkpoint=… [dataset=…]`.

`eval.datasets=[market,duke,…]` judges it on many and compares; each run is tracked like a training.

`checkpoint` is a file (last.pt or model.pt of a run), a run's folder, an MLflow run id, or a registered model
(`models:/<name>@<alias>`).  `card=true` writes the scores into the checkpoint and its model card.
"""

from reid.jobs.launch import launch


def main() -> None:
    """The command `python -m reid.evaluate` and `reid-evaluate`."""
    launch("evaluate", "reid.commands.evaluate:run")


if __name__ == "__main__":
    main()
