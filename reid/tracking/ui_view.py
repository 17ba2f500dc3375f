"""What a user sees on opening an experiment in the MLflow UI: columns, charts, and figures in descriptions.

MLflow has no API for this. It opens a view of an experiment from the tag `mlflow.sharedViewState.<key>` when
a link names the key, as its button "Share" does (seen in 3.17). A version that reads the tag otherwise shows
its own columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import quote

from reid.tracking.errors import TrackingError, reason
from reid.tracking.records import RunRecord, experiment_names, newest_runs, runs_of_ids
from reid.tracking.store import Store

VIEW_KEY = "reid"
_VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
_KIND_TAG = "mlflow.experimentKind"
_NOTE_TAG = "mlflow.note.content"
_NOTE = """\
One row a run, named by what it changes. A row with a small triangle is a sweep: its own page says in a
sentence, a figure and a table what came of it; under the triangle lie its jobs.

Select rows and press **Compare** for parallel coordinates and curves. Every run carries its resolved config
(`config_resolved.yaml`), the commit, the fingerprint of its data and the machine (tags).
"""
#: An experiment's tag holds 5000 characters.
_MOST_KEYS = 12
#: So many runs of an experiment, the newest, are looked at.
_LOOKED_AT = 400
_SECTION = "reid-section"


@dataclass(frozen=True)
class View:
    """An experiment and the part of the address, after the server's, that opens it as it is meant."""

    experiment: str
    path: str


def figure_markdown(run_id: str, artifact: str, title: str = "") -> str:
    """The Markdown of a figure that is an artifact of a run, to stand in a description.

    The address is relative, so it holds wherever the UI is served.
    """
    return f"![{title}](get-artifact?path={quote(artifact, safe='')}&run_uuid={run_id})"


def prepare_views(store: Store) -> list[View]:
    """Give each experiment that has runs its columns and charts, and say how to open them; newest first.

    The newest runs of an experiment say what its columns are. Raises TrackingError when the store cannot be
    read or written.
    """
    found = (_looked_at(store, name) for name in experiment_names(store))
    looked_at = {some[0].experiment: some for some in found if some}
    names = sorted(looked_at, key=lambda name: looked_at[name][0].started or 0.0, reverse=True)
    views = []
    try:
        known = (
            {each.name: each for each in store.client.search_experiments(max_results=1000)} if names else {}
        )
        for name in names:
            experiment = known[name]
            state = json.dumps(view_state(looked_at[name]))
            if experiment.tags.get(_VIEW_TAG) != state:
                store.client.set_experiment_tag(experiment.experiment_id, _VIEW_TAG, state)
            if _KIND_TAG not in experiment.tags:
                # Otherwise the UI guesses, and offers prompts and traces of language models.
                store.client.set_experiment_tag(
                    experiment.experiment_id, _KIND_TAG, "custom_model_development"
                )
            if _NOTE_TAG not in experiment.tags:  # what somebody wrote there stays
                store.client.set_experiment_tag(experiment.experiment_id, _NOTE_TAG, _NOTE)
            query = f"viewStateShareKey={VIEW_KEY}&workflowType=machine_learning"
            views.append(View(name, f"/#/experiments/{experiment.experiment_id}/runs?{query}"))
    except Exception as error:
        raise TrackingError(
            f"the views of {store.public_uri} could not be prepared: {reason(error)}"
        ) from error
    return views


def _looked_at(store: Store, experiment: str) -> list[RunRecord]:
    """The newest runs of an experiment, with their parents, which say what was swept."""
    found = list(islice(newest_runs(store, experiment), _LOOKED_AT))
    ids = {run.run_id for run in found}
    parents = {run.parent for run in found if run.parent and run.parent not in ids}
    return found + (runs_of_ids(store, parents) if parents else [])


def view_state(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Columns and charts for the runs of one experiment: scores, then what was swept, then the curves."""
    splits = dict.fromkeys(run.tags.get("reid.score_split", "test") for run in runs)
    known = {name for run in runs for name in run.metrics}
    scores = [f"{split}/{name}" for split in splits for name in ("mAP", "rank-1")]
    scores = [name for name in scores if name in known][:_MOST_KEYS]
    swept = swept_params(runs)[:_MOST_KEYS]
    columns = [*(f"params.`{name}`" for name in swept), *(f"metrics.`{name}`" for name in scores)]
    charts: list[dict[str, Any]] = []
    if swept and scores:
        charts.append(_chart("PARALLEL", selectedParams=swept, selectedMetrics=scores[:1], showAllRuns=False))
    for name in [*scores, *(name for name in ("train/loss", "train/accuracy") if name in known)]:
        charts.append(
            _chart(
                "LINE",
                metricKey=name,
                selectedMetricKeys=[name],
                xAxisKey="step",
                selectedXAxisMetricKey="",
                lineSmoothness=0,
                scaleType="linear",
                xAxisScaleType="linear",
                range={},
                yAxisKey="metric",
                yAxisExpressions=[],
                useGlobalXaxisKey=True,
                useGlobalLineSmoothing=True,
            )
        )
    for number, chart in enumerate(charts):
        chart["uuid"] = f"reid-{number}"
    return {
        "selectedColumns": columns,
        "columnOrder": columns,
        "compareRunCharts": charts,
        "compareRunSections": _sections(known),
        "viewMaximized": False,
        "runListHidden": False,
    }


def _sections(metrics: set[str]) -> list[dict[str, Any]]:
    """Our charts in an open section, above those that MLflow makes of every metric, which are closed."""
    theirs = sorted(dict.fromkeys(_section_of(name) for name in metrics))[:_MOST_KEYS]
    ours = {"uuid": _SECTION, "name": VIEW_KEY, "display": True, "isGenerated": False}
    closed = [
        {"uuid": f"{_SECTION}-{number}", "name": name, "display": False, "isGenerated": True}
        for number, name in enumerate(theirs)
    ]
    return [{**section, "isReordered": False, "deleted": False} for section in (ours, *closed)]


def _section_of(metric: str) -> str:
    """The section in which MLflow puts a metric: it is called after the folder of its name."""
    folder = metric.rpartition("/")[0]
    return {"": "Model metrics", "system": "System metrics"}.get(folder, folder)


def swept_params(runs: Sequence[RunRecord]) -> list[str]:
    """The params that a sweep of these runs went through: the tag `reid.swept` of the parents."""
    typed = [key for run in runs for key in run.tags.get("reid.swept", "").split(", ") if key]
    params = {name for run in runs for name in run.params}
    # A swept group, such as `backbone`, shows in the params under it.
    found = [name for key in typed for name in (key, f"{key}.name", f"{key}._target_") if name in params]
    return list(dict.fromkeys(found))


def _chart(kind: str, **options: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "runsCountToCompare": 100,
        "metricSectionId": _SECTION,
        "deleted": False,
        "isGenerated": False,
        **options,
    }
