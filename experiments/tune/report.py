"""The report of a study: its parent run in MLflow, with the table of trials, the figures and one sentence."""

from collections.abc import Mapping

import pandas as pd
from optuna.trial import TrialState

from experiments.tune.study import SCORE, Search
from experiments.tune.winner import best_trial, values_of
from reid.engine.rundir import read_status
from reid.figures import save, search_history, search_map, search_slices
from reid.home import home, source_root
from reid.tracking import JOURNAL, Status, Tracker, default_store, environment, open_parent
from reid.words import as_markdown, percent

#: What the table calls the states of a trial.
STATES = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "PRUNED",
    TrialState.FAIL: "FAILED",
    TrialState.RUNNING: "UNFINISHED",
    TrialState.WAITING: "UNFINISHED",
}


def open_study_run(search: Search) -> Tracker:
    """The study's parent run: a new one, or the one of its earlier starts.

    Raises:
        TrackingError: another process is at this study.
    """
    tracking = search.settings.tracking
    return open_parent(
        default_store(home(), tracking.uri),
        tracking.experiment,
        search.folder,
        tracking.run_name or f"study of {', '.join(search.keys)}",
        tags={
            **environment(source_root()).tags,
            "reid.study": search.name,
            "reid.study_storage": search.place,
            "reid.swept": ", ".join(search.keys),
            "reid.overrides": " ".join(search.overrides),
            "reid.score_split": "val",
            "reid.selected_on": "val",
        },
        description=f"`python -m experiments.tune {' '.join(search.overrides)}`: under way",
        resume=(search.folder / JOURNAL).exists(),
    )


def trial_table(search: Search) -> pd.DataFrame:
    """One row a trial: number, values, val/mAP (a pruned one: its last), epochs judged, status, run."""
    rows = []
    for trial in search.study.get_trials(deepcopy=False):
        epochs = sorted(trial.intermediate_values)
        last = trial.intermediate_values[epochs[-1]] if epochs else float("nan")
        status = read_status(search.folder / str(trial.number))
        drawn = trial.params.keys() >= {*search.keys}
        rows.append(
            {
                "trial": trial.number,
                **(values_of(search, trial) if drawn else dict.fromkeys(search.keys)),
                SCORE: trial.value if trial.state == TrialState.COMPLETE else last,
                "epochs": epochs[-1] if epochs else 0,
                "status": STATES[trial.state],
                "run_id": status.run_id if status else None,
            }
        )
    return pd.DataFrame(rows, columns=["trial", *search.keys, SCORE, "epochs", "status", "run_id"])


def sentence(search: Search, test_scores: Mapping[str, float]) -> str:
    """The best trial, what it was chosen by, and what it scored on `test` as the winner."""
    best = best_trial(search)
    if best is None:
        return "No trial is complete yet."
    states = [STATES[trial.state] for trial in search.study.get_trials(deepcopy=False)]
    counted = ", ".join(f"{states.count(state)} {state.lower()}" for state in dict.fromkeys(states))
    values = ", ".join(f"{key}={value}" for key, value in values_of(search, best).items())
    text = (
        f"Best of {len(states)} trials ({counted}): trial {best.number}, {values}, "
        f"mAP {percent(best.value or 0)} on val, by which it was chosen."
    )
    if not test_scores:
        return f"{text} It was not yet judged on test."
    return (
        f"{text} Trained again on all training identities and judged once: "
        f"mAP {percent(test_scores['test/mAP'])}, rank-1 {percent(test_scores['test/rank-1'])} on test."
    )


def markdown(search: Search, table: pd.DataFrame) -> str:
    """The table of trials for the parent's description, best first, what was not completed after it."""
    head = ["trial", *search.keys, "mAP on val (%)", "epochs", "status"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    ranked = table.assign(late=table["status"] != "FINISHED").sort_values(
        ["late", SCORE], ascending=[True, False]
    )
    for _, row in ranked.iterrows():
        score = "-" if pd.isna(row[SCORE]) else f"{100 * row[SCORE]:.1f}"
        cells = [row["trial"], *(row[key] for key in search.keys), score, row["epochs"], row["status"]]
        lines.append(f"| {' | '.join(map(as_markdown, cells))} |")
    return "\n".join(lines)


def close_parent(search: Search, parent: Tracker, test_scores: Mapping[str, float], status: Status) -> str:
    """Put table, figures and sentence on the parent and close it; the sentence, and where all of it lies."""
    try:
        table = trial_table(search)
        text = sentence(search, test_scores)
        parent.text(table.to_csv(index=False), "trials.csv")
        _draw(search, parent, table)
        listed = markdown(search, table)
        parent.description(f"{as_markdown(text)}\n\n{listed}")
        best = best_trial(search)
        if best is not None and best.value is not None:
            parent.metrics({SCORE: best.value}, len(table))
            parent.tags({"reid.best_trial": best.number})
        if test_scores:
            winner = {f"winner/{name}": value for name, value in test_scores.items()}
            parent.metrics(winner, len(table))
    finally:
        parent.finish(status)
    return f"{text}\n\n{listed}\n\ntable and figures: {search.folder}"


def _draw(search: Search, parent: Tracker, table: pd.DataFrame) -> None:
    if not table[SCORE].notna().any():
        return
    drawn = {
        "history.png": search_history(table, SCORE),
        "slices.png": search_slices(table, search.keys, SCORE),
    }
    if len(search.keys) == 2 and all(pd.api.types.is_numeric_dtype(table[key]) for key in search.keys):
        drawn["map.png"] = search_map(table, search.keys[0], search.keys[1], SCORE)
    for name, figure in drawn.items():
        parent.artifact(save(figure, search.folder / "figures" / name), "figures")
