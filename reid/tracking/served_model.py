"""What MLflow loads of a logged model: encoded pictures in, features out.

The file is copied into each logged model (models from code), where MLflow runs it as a program of its own. So
it takes the suite, which has to be installed there, by name.  Nothing is unpickled: `model.pt` is read as
every command reads it.  The suite itself never imports this file.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class PictureEmbedder(PythonModel):
    """The model of `model.pt`; a column `image` of PNG, JPEG, … bytes gives a row of features each."""

    def load_context(self, context: Any) -> None:
        """Read the checkpoint that MLflow names."""
        try:
            load_model = import_module("reid.inference").load_model
        except ModuleNotFoundError as error:
            raise MlflowException(
                "this model needs the re-identification suite that trained it: install its wheel beside "
                "MLflow, or put its source tree on PYTHONPATH"
            ) from error
        self._model = load_model(context.artifacts["checkpoint"])

    # Without type hints, from which MLflow would make a schema of its own.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Features (N, C) float32, those of `model.embed`."""
        pictures = [self._picture(number, data) for number, data in enumerate(model_input["image"])]
        return self._model.embed(pictures).numpy()

    def _picture(self, number: int, data: bytes) -> Any:
        pictures = import_module("reid.data.pictures")
        try:
            return pictures.decode(data).image
        except import_module("reid.data.crops").PictureError as error:
            raise MlflowException.invalid_parameter_value(f"image {number}: {error}") from error


set_model(PictureEmbedder())
