"""The data of a run as MLflow shows them: dataset inputs with the suite's own digest, and without a place."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from reid.tracking.journal import Operation

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: MLflow's limit.
_MAX_DIGEST = 36


@dataclass(frozen=True)
class DataInput:
    """One dataset that a run reads.

    name: its reader. digest: of its pixels and labels, at most 36 characters. context: `training` or `eval`.
    height, width: in pixels, of what the network sees.
    """

    name: str
    digest: str
    context: str
    images: int
    people: int
    cameras: int
    height: int
    width: int


def input_operation(inputs: Iterable[DataInput]) -> Operation:
    """What the journal holds of them."""
    return {"op": "inputs", "datasets": [asdict(one) for one in inputs]}


def send_inputs(client: MlflowClient, run_id: str, operation: Operation) -> None:
    """Log the inputs; those that the run has already stay as they are."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    client.log_inputs(
        run_id,
        [
            DatasetInput(
                Dataset(
                    one["name"],
                    one["digest"][:_MAX_DIGEST],
                    source_type="code",
                    source=json.dumps({"tags": {"reid.reader": one["name"]}}),
                    schema=json.dumps(_schema(one)),
                    profile=json.dumps({key: one[key] for key in ("images", "people", "cameras")}),
                ),
                [InputTag("mlflow.data.context", one["context"])],
            )
            for one in operation["datasets"]
        ],
    )


def _schema(one: dict[str, Any]) -> dict[str, Any]:
    """As MLflow writes the schema of arrays: pixels, and whom they show."""

    def tensor(dtype: str, *shape: int) -> str:
        return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}])

    pixels = tensor("uint8", -1, one["height"], one["width"], 3)
    return {"mlflow_tensorspec": {"features": pixels, "targets": tensor("int64", -1)}}
