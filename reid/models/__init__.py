"""Networks: backbones by name, the BNNeck model around them, and their weight files."""

from reid.models.build import backbone_function, backbone_names, build_backbone
from reid.models.depth import layer_depths, undecayed
from reid.models.ibn import SMALLEST_IBN_SIDE
from reid.models.matching import WeightReport
from reid.models.neck import ReidModel
from reid.models.spatial import SMALLEST_STN_IMAGE
from reid.models.trunk import Backbone, BackboneError, ImagenetFile, as_backbone, set_last_stride
from reid.models.weights import WeightsError, check_weights, load_weights

__all__ = [
    "SMALLEST_IBN_SIDE",
    "SMALLEST_STN_IMAGE",
    "Backbone",
    "BackboneError",
    "ImagenetFile",
    "ReidModel",
    "WeightReport",
    "WeightsError",
    "as_backbone",
    "backbone_function",
    "backbone_names",
    "build_backbone",
    "check_weights",
    "layer_depths",
    "load_weights",
    "set_last_stride",
    "undecayed",
]
