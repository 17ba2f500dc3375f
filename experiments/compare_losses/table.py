"""The table and the figure of this study from the folders of its sweeps.

    python -m experiments.compare_losses.table multirun/<sweep> multirun/<another> …

writes results.csv, one row a run, and losses.png beside this file, and prints mean ± standard deviation over
the seeds of each loss, and its difference from the ranked list loss, seed by seed.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from reid.figures import save, sweep_figure
from reid.tracking import local_children

HERE = Path(__file__).parent
REFERENCE = "ranked"
#: The choice of `loss` by what its runs have tracked as its class.
LOSSES = {
    "reid.losses.RankedListLoss": "ranked",
    "reid.losses.ClusteredRankedListLoss": "clustered_ranked",
    "reid.losses.TripletLoss": "triplet",
    "None": "softmax",
}


def read(sweeps: Iterable[Path]) -> pd.DataFrame:
    """The finished runs of the sweeps, one row each: loss, seed, scores as fractions, provenance."""
    rows = []
    for run in (run for sweep in sweeps for run in local_children(sweep) if run.status == "FINISHED"):
        loss = LOSSES[run.params["loss._target_"]]
        if loss == "triplet" and run.params["loss.normalise"] == "False":
            loss = "triplet, raw features"
        rows.append(
            {
                "loss": loss,
                "seed": int(run.params["seed"]),
                "mAP": run.metrics["test/mAP"],
                "rank-1": run.metrics["test/rank-1"],
                "mINP": run.metrics["test/mINP"],
                "run": run.run_id,
                "config_hash": run.tags["reid.config_hash"],
                "data": run.tags["reid.data.fingerprint"],
                "code": run.tags["mlflow.source.git.commit"],
            }
        )
    return pd.DataFrame(rows).sort_values(["loss", "seed"], ignore_index=True)


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and sample standard deviation in percent, and differences from the reference, paired by seed."""
    table = 100 * runs.pivot(index="seed", columns="loss", values=["mAP", "rank-1"])
    rows = {}
    for loss in runs["loss"].unique():
        scores, difference = table["mAP"][loss], table["mAP"][loss] - table["mAP"][REFERENCE]
        rows[loss] = {
            "seeds": scores.count(),
            "mAP (%)": f"{scores.mean():.1f} ± {scores.std():.1f}",
            "rank-1 (%)": f"{table['rank-1'][loss].mean():.1f} ± {table['rank-1'][loss].std():.1f}",
            f"mAP less {REFERENCE} (points)": f"{difference.mean():+.1f} ± {difference.std():.1f}",
        }
    return pd.DataFrame(rows).T.sort_values("mAP (%)", ascending=False)


def main() -> None:
    runs = read(Path(argument) for argument in sys.argv[1:])
    runs.to_csv(HERE / "results.csv", index=False, float_format="%.6f")
    three = runs[runs.groupby("loss")["seed"].transform("count") > 1]
    title = "Four losses at equal budget, Market train-half split (not Market-1501)"
    save(
        sweep_figure(three, ["loss"], "mAP", score_label="mAP on test (%)", title=title), HERE / "losses.png"
    )
    print(summary(runs).to_string())


if __name__ == "__main__":
    main()
