"""The best trial's values, trained again on all training identities and judged once on `test`."""

import optuna
from optuna.trial import TrialState

from experiments.tune.study import Search, rounded
from experiments.tune.trials import child_job, trial_name
from reid.commands.train import train
from reid.engine.rundir import LAST, read_status
from reid.jobs.frame import run_framed
from reid.jobs.job import Job

#: How the winner is judged: after its last epoch, and never before.
JUDGED_ONCE = ("eval.split=test", "eval.period=0", "eval.at_start=false")


def best_trial(search: Search) -> optuna.trial.FrozenTrial | None:
    """The complete trial with the best score on `val`, the first of equals; None where none is complete."""
    complete = [t for t in search.study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)


def judge_winner(search: Search, job: Job) -> dict[str, float]:
    """The winner's scores on `test`; they are read, not made again, where this winner was judged before.

    Raises:
        RuntimeError: no trial is complete.
    """
    best = best_trial(search)
    if best is None:
        raise RuntimeError(
            f"no trial of the study {search.name} is complete; what failed stands in {search.folder}"
        )
    values = values_of(search, best)
    # A winner has nobody held out to choose an epoch by: it keeps the last one.
    last = ("tracking.checkpoint=last",) if search.settings.tracking.checkpoint == "best" else ()
    config, settings, overrides = search.trial_config(values, *JUDGED_ONCE, *last)
    winner = child_job(
        search, job, f"winner-{best.number}", f"winner: {trial_name(values)}", config, overrides
    )
    earlier = read_status(winner.folder)
    if earlier is not None and earlier.status == "FINISHED":
        return earlier.scores
    winner.tags = {"reid.study": search.name, "reid.kind": "winner", "reid.trial": best.number,
                   "reid.selected_on": "val"}  # fmt: skip
    settings.resume = str(winner.folder) if (winner.folder / LAST).exists() else None
    run_framed(winner, lambda framed: train(framed, settings))
    return winner.status.scores


def values_of(search: Search, trial: optuna.trial.FrozenTrial) -> dict[str, object]:
    """What the trial was trained with, by key."""
    drawn = {key: trial.params[key] for key in search.keys}
    return {key: rounded(value) if isinstance(value, float) else value for key, value in drawn.items()}
