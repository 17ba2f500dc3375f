"""Networks: backbones by name, heads, the model of both, and weight files.

Names are imported at their first use (PEP 562), since torch and torchvision take seconds to load.
"""

from typing import TYPE_CHECKING

from reid.lazy import lazy_names

if TYPE_CHECKING:
    from reid.models.build import backbone_function, backbone_names, build_backbone
    from reid.models.depth import layer_depths, norm_parameters, undecayed
    from reid.models.heads import Head, HeadError, build_head, head_class
    from reid.models.matching import WeightReport
    from reid.models.model import BNNECK, ReidModel, described_head, described_model
    from reid.models.recompute import recompute_blocks
    from reid.models.sizes import SMALLEST_IBN_SIDE, SMALLEST_STN_IMAGE
    from reid.models.trunk import Backbone, BackboneError, ImagenetFile, as_backbone, set_last_stride
    from reid.models.weight_file import WeightsError, check_weights
    from reid.models.weights import load_weights
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "build": ["backbone_function", "backbone_names", "build_backbone"],
            "depth": ["layer_depths", "norm_parameters", "undecayed"],
            "heads": ["Head", "HeadError", "build_head", "head_class"],
            "matching": ["WeightReport"],
            "model": ["BNNECK", "ReidModel", "described_head", "described_model"],
            "recompute": ["recompute_blocks"],
            "sizes": ["SMALLEST_IBN_SIDE", "SMALLEST_STN_IMAGE"],
            "trunk": ["Backbone", "BackboneError", "ImagenetFile", "as_backbone", "set_last_stride"],
            "weight_file": ["WeightsError", "check_weights"],
            "weights": ["load_weights"],
        },
    )

__all__ = [
    "BNNECK",
    "SMALLEST_IBN_SIDE",
    "SMALLEST_STN_IMAGE",
    "Backbone",
    "BackboneError",
    "Head",
    "HeadError",
    "ImagenetFile",
    "ReidModel",
    "WeightReport",
    "WeightsError",
    "as_backbone",
    "backbone_function",
    "backbone_names",
    "build_backbone",
    "build_head",
    "check_weights",
    "described_head",
    "described_model",
    "head_class",
    "layer_depths",
    "load_weights",
    "norm_parameters",
    "recompute_blocks",
    "set_last_stride",
    "undecayed",
]
