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
#: The tables in which MLflow keeps a run.
_TABLES = ("runs", "params", "tags", "metrics", "latest_metrics")
#: Tags whose values name a run.
_NAMES_OF_RUNS = ("mlflow.parentRunId", "reid.run_key")
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


def multiply(database: str, times: int) -> None:
    """Have a database hold all of its runs `times` times, each copy an hour older and with ids of its own.

    It is done in SQL, since the client needs a twentieth of a second for a run. A copy's id begins with its
    number. database: the SQLAlchemy URI; `times` is at most 255.
    """
    import sqlalchemy
    from sqlalchemy import text

    engine = sqlalchemy.create_engine(database, poolclass=sqlalchemy.pool.NullPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE first_runs AS SELECT run_uuid FROM runs"))
        for copy in range(1, times):
            for table in _TABLES:
                columns = [column["name"] for column in sqlalchemy.inspect(connection).get_columns(table)]
                values = ", ".join(_copied(table, column, copy) for column in columns)
                names = ", ".join(f'"{column}"' for column in columns)
                connection.execute(
                    text(
                        f"INSERT INTO {table} ({names}) SELECT {values} FROM {table} WHERE run_uuid IN "
                        "(SELECT run_uuid FROM first_runs)"
                    )
                )
        connection.execute(text("DROP TABLE first_runs"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))  # what a server does by itself within minutes


def _copied(table: str, column: str, copy: int) -> str:
    """What a copy has in this column, in SQL."""
    if column == "run_uuid":
        return f"'{copy:02x}' || substr(run_uuid, 3)"
    if table == "runs" and column in ("start_time", "end_time"):
        return f'"{column}" - {copy * _HOUR_MS}'
    if table == "tags" and column == "value":
        keys = ", ".join(f"'{name}'" for name in _NAMES_OF_RUNS)
        return f"CASE WHEN key IN ({keys}) THEN '{copy:02x}' || substr(value, 3) ELSE value END"
    return f'"{column}"'


def facts(store: Store) -> dict[str, Any]:
    """How many runs, params, tags and points of metrics a database holds."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(store.uri, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:
        return {
            table: connection.execute(sqlalchemy.text(f"SELECT count(*) FROM {table}")).scalar_one()
            for table in ("runs", "params", "tags", "metrics")
        }
