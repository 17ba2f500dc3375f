"""The trained model of a run as MLflow's LoggedModel: a pyfunc from code around `model.pt`, stored once.

Its folder holds, at the top: `model.pt`, the code that reads it, signature and input example (noise), the
requirements and the card.  Runs of older versions have `checkpoints/model.pt` among their own artifacts;
both are read.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import platform
import shutil
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from reid.tracking.errors import TrackingError
from reid.tracking.journal import Operation, replace_text
from reid.tracking.uris import local_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

    from reid.tracking.store import Store

#: Of every LoggedModel, and of its checkpoint in it.
NAME, CHECKPOINT = "model", "model.pt"
#: Where the files beside the checkpoint lie in a run's folder.
FOLDER = "logged_model"
_DESCRIPTION = "MLmodel"
#: The tag of a LoggedModel that holds the sha256 of the checkpoint that its run sent.
_SENT = "reid.sent_sha256"
_CODE = Path(__file__).with_name("served_model.py")
#: What the suite needs to embed pictures; the suite itself is in no registry of packages.
_REQUIREMENTS = (
    "mlflow",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "pandas",
    "hydra-core",
    "omegaconf",
)


def write_model_files(folder: Path, height: int, width: int, embedding_size: int, card: Path) -> None:
    """Write what stands beside the checkpoint into `folder`.

    height, width: of the noise that is the input example. Raises OSError on a full disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_CODE, folder / _CODE.name)
    shutil.copyfile(card, folder / card.name)
    requirements = [f"{name}=={found}" for name in _REQUIREMENTS if (found := _version(name))]
    example = {"columns": ["image"], "data": [[base64.b64encode(_noise(height, width)).decode()]]}
    python = platform.python_version()
    texts = {
        "requirements.txt": "\n".join(requirements) + "\n",
        "python_env.yaml": yaml.safe_dump({"python": python, "dependencies": ["-r requirements.txt"]}),
        "input_example.json": json.dumps(example),
        "serving_input_example.json": json.dumps({"dataframe_split": example}),
        _DESCRIPTION: yaml.safe_dump(_description(python, embedding_size)),
    }
    for name, text in texts.items():
        replace_text(folder / name, text)


def _description(python: str, embedding_size: int) -> dict[str, Any]:
    """`MLmodel`, as `mlflow.pyfunc.save_model` writes it of a model from code, less this machine's paths."""
    tensor = {"dtype": "float32", "shape": [-1, embedding_size]}
    return {
        "flavors": {
            "python_function": {
                "artifacts": {"checkpoint": {"path": CHECKPOINT, "uri": CHECKPOINT}},
                "code": None,
                "env": {"virtualenv": "python_env.yaml"},
                "loader_module": "mlflow.pyfunc.loaders.code_model",
                "model_code_path": _CODE.name,
                "python_version": python,
                "streamable": False,
            }
        },
        "mlflow_version": _version("mlflow"),
        "model_uuid": uuid.uuid4().hex,
        "saved_input_example_info": {
            "artifact_path": "input_example.json",
            "pandas_orient": "split",
            "serving_input_path": "serving_input_example.json",
            "type": "dataframe",
        },
        "signature": {
            "inputs": json.dumps([{"type": "binary", "name": "image", "required": True}]),
            "outputs": json.dumps([{"type": "tensor", "tensor-spec": tensor}]),
            "params": None,
        },
        "utc_time_created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
    }


def _noise(height: int, width: int) -> bytes:
    """A PNG in which there is nobody."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _version(package: str) -> str:
    try:
        return version(package).partition("+")[0]  # such as +cpu, which no registry knows
    except PackageNotFoundError:
        return ""


def model_operation(checkpoint: Path, folder: Path, run_folder: Path, step: int) -> Operation:
    """What the journal holds of the model: its places in the run's folder, and the epochs it was trained."""
    places = {"checkpoint": checkpoint, "path": folder}
    relative = {key: place.resolve().relative_to(run_folder).as_posix() for key, place in places.items()}
    return {"op": "model", **relative, "folder": NAME, "step": step}


def send_model(client: MlflowClient, run_id: str, operation: Operation, run_folder: Path) -> None:
    """Store the model of a run, made on the first call; later ones replace its files.

    A checkpoint that was sent already is not sent again: the store's may have a threshold or scores by now.
    A server that is older than LoggedModels gets the checkpoint as an artifact of the run.
    """
    checkpoint, folder = run_folder / operation["checkpoint"], run_folder / operation["path"]
    for path in (checkpoint, folder):
        if not path.exists():
            raise TrackingError(f"{path} is no longer there, so it cannot be sent")
    run = client.get_run(run_id)
    try:
        model = find_model(client, run) or client.create_logged_model(
            run.info.experiment_id, NAME, source_run_id=run_id, model_type="embedding"
        )
    except Exception as error:
        if getattr(error, "error_code", None) != "ENDPOINT_NOT_FOUND":
            raise
        client.log_artifact(run_id, str(checkpoint), "checkpoints")
        return
    with checkpoint.open("rb") as file:
        sent = hashlib.file_digest(file, "sha256").hexdigest()
    stored = [item.path for item in client.list_logged_model_artifacts(model.model_id)]
    if str(model.status) == "READY" and model.tags.get(_SENT) == sent and CHECKPOINT in stored:
        return
    description = yaml.safe_load((folder / _DESCRIPTION).read_text(encoding="utf-8"))
    description |= {"model_id": model.model_id, "run_id": run_id}
    replace_text(folder / _DESCRIPTION, yaml.safe_dump(description))
    put_files(client, model.model_id, [checkpoint, *sorted(folder.iterdir())])
    if model.model_id not in outputs_of(run):
        from mlflow.entities import LoggedModelOutput

        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, operation["step"])])
    client.set_logged_model_tags(model.model_id, {_SENT: sent})
    if str(model.status) != "READY":
        client.finalize_logged_model(model.model_id, "READY")


def put_files(client: MlflowClient, model_id: str, paths: Iterable[Path]) -> None:
    """Put files to the top of a model's folder; those of the same name are replaced."""
    for path in paths:
        client.log_model_artifact(model_id, str(path))


def find_model(client: MlflowClient, run: Run) -> LoggedModel | None:
    """The LoggedModel of a run, also one whose creation was never answered; None where it has none.

    One that somebody deleted in MLflow is none.
    """
    for model_id in outputs_of(run):
        try:
            return client.get_logged_model(model_id)
        except Exception as error:
            if getattr(error, "error_code", None) != "RESOURCE_DOES_NOT_EXIST":
                raise
    found = client.search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{run.info.run_id}'", max_results=1
    )
    return found[0] if found else None


def fetch_from_model(store: Store, model: LoggedModel) -> Path:
    """A local path of the model's checkpoint; no other file of it is read, and none of its code is run."""
    folder = local_folder(model.artifact_location)
    if folder is not None:
        return folder / CHECKPOINT
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(model.artifact_location, tracking_uri=store.uri)
    return Path(repository.download_artifacts(CHECKPOINT))


def outputs_of(run: Run) -> list[str]:
    """The ids of the LoggedModels that the run names as its own."""
    outputs = getattr(run, "outputs", None)
    return [one.model_id for one in outputs.model_outputs] if outputs else []
