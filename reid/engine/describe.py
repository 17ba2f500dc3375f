"""What a checkpoint says of its model, and the model rebuilt from it: data in, no code run."""

from typing import Any

from reid.config import TrainConfig
from reid.data.augment import IMAGENET_MEAN, IMAGENET_STD
from reid.engine.checkpoint import Checkpoint, CheckpointError
from reid.models import ReidModel, build_backbone


def build_model(settings: TrainConfig, num_classes: int) -> ReidModel:
    """The model that a config asks for, with the weights that it names.

    Raises:
        BackboneError, WeightsError: the network or its weights cannot be had as asked.
    """
    backbone = build_backbone(last_stride=settings.tricks.last_stride, **settings.backbone)
    neck = "bnneck" if settings.tricks.bnneck else "none"
    return ReidModel(backbone, num_classes, neck, settings.loss["neck_feature"], settings.eval.neck_feature)


def model_spec(settings: TrainConfig, num_classes: int) -> dict[str, Any]:
    """Everything that `rebuild_model` needs, as plain data."""
    return {
        "backbone": {**settings.backbone, "weights": "none"},
        "last_stride": settings.tricks.last_stride,
        "neck": "bnneck" if settings.tricks.bnneck else "none",
        "num_classes": num_classes,
        "eval_feature": settings.eval.neck_feature,
    }


def preprocessing(settings: TrainConfig) -> dict[str, Any]:
    """What an image has to go through before the model sees it."""
    return {
        "height": settings.image.height,
        "width": settings.image.width,
        "colour": "RGB",
        "resize": "bilinear (PIL)",
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
    }


def rebuild_model(checkpoint: Checkpoint) -> ReidModel:
    """The trained model of a checkpoint.

    Raises:
        CheckpointError: what it says of its model and the tensors that it holds do not fit together.
    """
    spec = checkpoint.meta["model"]
    try:
        backbone = build_backbone(last_stride=spec["last_stride"], **spec["backbone"])
        model = ReidModel(backbone, spec["num_classes"], spec["neck"], eval_feature=spec["eval_feature"])
        model.load_state_dict(dict(checkpoint.model))
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"the checkpoint does not fit the model that it names: {error}") from error
    return model
