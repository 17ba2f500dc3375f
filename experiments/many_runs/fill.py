"""A store with many runs in one experiment, without a training: sweeps of nine jobs and their parents."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from reid.config.identity import flat
from reid.config.schema import default_config
from reid.config.settings import train_settings
from reid.home import source_root
from reid.tracking import Store, environment

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "many runs"
#: A parent and its jobs.
FAMILY = 10
EPOCHS = 5
_METRICS = ("train/loss", "train/accuracy", "train/seconds", "test/mAP", "test/rank-1", "test/mINP")
_HOUR_MS = 3_600_000


def write_runs(store: Store, count: int) -> str:
    """Write `count` runs by MLflow's client, with the params and tags of a real run and points of five
    epochs.

    Returns the id of the last sweep's parent.
    """
    client, experiment = store.client, store.prepare(EXPERIMENT)
    params = {key: str(value)[:250] for key, value in flat(train_settings(default_config())).items()}
    tags = {key: str(value)[:250] for key, value in environment(source_root()).tags.items()}
    chance, parent, now = random.Random(0), "", int(time.time() * 1000) - _HOUR_MS
    for number in range(count):
        own = {
            **tags,
            "reid.run_key": f"{number:032x}",
            "reid.score_split": "test",
            "reid.swept": "loss.alpha",
        }
        started = now + number * 10
        if number % FAMILY == 0:
            parent = _run(
                client, experiment, started, {**own, "reid.kind": "sweep"}, f"sweep {number}", {}, 0.0
            )
            continue
        job, score = number % FAMILY, chance.uniform(0.3, 0.6)
        mine = {**params, "loss.alpha": f"{1 + job / 10}"}
        linked = {**own, "reid.kind": "run", "mlflow.parentRunId": parent}
        _run(client, experiment, started, linked, f"loss.alpha={1 + job / 10}", mine, score)
    return parent


def _run(
    client: MlflowClient,
    experiment: str,
    started: int,
    tags: dict[str, str],
    name: str,
    params: dict[str, str],
    score: float,
) -> str:
    from mlflow.entities import Metric, Param

    run_id = str(client.create_run(experiment, start_time=started, tags=tags, run_name=name).info.run_id)
    points = [
        Metric(metric, score * epoch / EPOCHS, started + epoch, epoch)
        for metric in _METRICS
        for epoch in range(1, EPOCHS + 1)
        if params
    ]
    client.log_batch(run_id, metrics=points, params=[Param(key, value) for key, value in params.items()])
    client.set_terminated(run_id, end_time=started + EPOCHS)
    return run_id


def facts(store: Store) -> dict[str, Any]:
    """How many runs, params, tags and points of metrics a database holds."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(store.uri, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:
        return {
            table: connection.execute(sqlalchemy.text(f"SELECT count(*) FROM {table}")).scalar_one()
            for table in ("runs", "params", "tags", "metrics")
        }
