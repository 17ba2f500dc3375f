"""Which stored tensors belong to which tensors of a backbone: pure functions on names and shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from reid.models.weight_file import WeightsError

LEAST_FRACTION = 0.9

#: Of wrappers, of whole models, and of the encoder that contrastive learning keeps (MoCo's query encoder).
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "base.", "image_encoder.", "encoder_q.", "base_encoder.")
_CLASSIFIERS = ("fc.", "last_linear.", "classifier.")
#: The name of the camera embeddings in published files.
CAMERA_TABLE, _CLIP_CAMERAS = "sie_embed", "cv_embed"
#: What an option adds to a network: the spatial transformer, camera embeddings, non-local blocks.
_OPTIONAL = ("localization.", "fc_loc.", CAMERA_TABLE, "NL_")
_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.")


@dataclass(frozen=True)
class WeightReport:
    """What came of loading a weight file into a backbone. Counters of batch norms are left out throughout.

    source: `none`, the address of the ImageNet file, its repository on the Hugging Face hub, or the absolute
        path of the file.
    sha256: of the file's bytes, hexadecimal; empty for `none`.
    matched: tensors loaded, of `total` that the backbone has.
    missing: tensors of the backbone that the file lacks; they keep their random values.
    unexpected: tensors of the file that the backbone lacks.
    mismatched: tensors of another shape, with both shapes in words.
    dropped: what the file holds outside the backbone (classifier, neck).
    part: what was loaded, in words.
    notes: what else there is to know: tensors resized to the input, options without a meaning here.
    """

    source: str
    sha256: str
    matched: int
    total: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    dropped: tuple[str, ...]
    part: str = "backbone"
    notes: tuple[str, ...] = ()

    @property
    def fraction(self) -> float:
        """Share of the backbone's tensors that were loaded, 0 to 1."""
        return self.matched / self.total

    @property
    def used(self) -> float:
        """Share of the file's backbone tensors that were loaded, 0 to 1: low for a larger network's file."""
        offered = self.matched + len(self.unexpected) + len(self.mismatched)
        return self.matched / offered if offered else 0.0

    @property
    def fits(self) -> bool:
        """Whether file and backbone cover each other by at least 90 %."""
        return min(self.fraction, self.used) >= LEAST_FRACTION

    def describe(self) -> str:
        """One readable line: how much was loaded from where, and what was not."""
        if self.source == "none":
            random = f"random weights: none of the backbone's {self.total} tensors was loaded"
            return "; ".join((random, *self.notes))
        parts = [
            f"{self.source}: {self.matched} of {self.total} {self.part} tensors loaded ({self.fraction:.1%})",
            summarise("missing", self.missing),
            summarise("unexpected", self.unexpected),
            summarise("of another shape", self.mismatched),
            summarise("dropped", self.dropped),
            f"sha256 {self.sha256[:12]}",
            *self.notes,
        ]
        return "; ".join(part for part in parts if part)


def is_counted(name: str) -> bool:
    """False for batch norms' step counters, which older files lack and nothing here reads."""
    return not name.endswith("num_batches_tracked")


def backbone_tensors(stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The stored tensors under the names of a bare backbone, and those of other parts.

    Prefixes of wrappers (`module.`, `_orig_mod.`) and of whole models (`backbone.`, `base.`,
    `image_encoder.`, `encoder_q.`) are stripped; where some names have such a prefix, those without belong to
    other parts, as classifiers do.
    """
    kept = {name: tensor for name, tensor in stored.items() if is_counted(name)}
    rest: dict[str, Tensor] = {}
    while prefix := next((p for p in _PREFIXES if any(name.startswith(p) for name in kept)), None):
        rest |= {name: tensor for name, tensor in kept.items() if not name.startswith(prefix)}
        kept = {name.removeprefix(prefix): t for name, t in kept.items() if name.startswith(prefix)}
    if _CLIP_CAMERAS in rest:  # which CLIP-ReID keeps beside its network
        kept[_CLIP_CAMERAS] = rest.pop(_CLIP_CAMERAS)
    rest |= {name: tensor for name, tensor in kept.items() if name.startswith(_CLASSIFIERS)}
    kept = {name: tensor for name, tensor in kept.items() if not name.startswith(_CLASSIFIERS)}
    return kept, rest


def compare(
    own: Mapping[str, Tensor],
    from_file: Mapping[str, Tensor],
    source: str,
    sha256: str = "",
    dropped: Iterable[str] = (),
    part: str = "backbone",
    notes: tuple[str, ...] = (),
) -> WeightReport:
    """Report which of the tensors `own` the tensors `from_file` serve, in name and shape.

    A spatial transformer, camera embeddings and non-local blocks count only where both sides have them: no
    ImageNet file does, and they are options.
    """
    counted = [name for name in own if is_counted(name)]
    names = [name for name in counted if name in from_file or not name.startswith(_OPTIONAL)]
    unknown = [name for name in from_file if name not in own]
    optional = [name for name in unknown if name.startswith(_OPTIONAL)]
    common = [name for name in names if name in from_file]
    mismatched = tuple(
        f"{name} (file {tuple(from_file[name].shape)}, {part} {tuple(own[name].shape)})"
        for name in common
        if from_file[name].shape != own[name].shape
    )
    return WeightReport(
        source=source,
        sha256=sha256,
        matched=len(common) - len(mismatched),
        total=len(names),
        missing=tuple(name for name in names if name not in from_file),
        unexpected=tuple(name for name in unknown if name not in optional),
        mismatched=mismatched,
        dropped=(*dropped, *optional),
        part=part,
        notes=notes,
    )


def camera_count(from_file: Mapping[str, Tensor]) -> int:
    """How many cameras a transformer's file has embeddings of, as TransReID or CLIP-ReID name them."""
    tables = [from_file[name] for name in (CAMERA_TABLE, _CLIP_CAMERAS) if name in from_file]
    return tables[0].shape[0] if tables and tables[0].ndim > 1 else 0


def patch_stride(from_file: Mapping[str, Tensor], image_size: tuple[int, int]) -> int | None:
    """12 where a ViT's file has the position embeddings of patches every 12 pixels; else None.

    The patches overlap then, which the shape of no other tensor tells (TransReID's and CLIP-ReID's stride of
    12).
    """
    stored = next((from_file[name] for name in _POSITIONS if name in from_file), None)
    overlapping = math.prod((side - 16) // 12 + 1 for side in image_size)
    return 12 if stored is not None and stored.ndim >= 2 and stored.shape[-2] == 1 + overlapping else None


def refuse_gaps(backbone: str, own: Mapping[str, Tensor], from_file: Mapping[str, Tensor]) -> None:
    """Raise WeightsError for a file of this network that lacks a few of its tensors.

    In a transformer each of them acts on the whole feature, so that random numbers in its place leave little
    of the pretraining. Camera embeddings are the exception: they belong to the training set, and begin small.
    A file that lacks more than a tenth is of another network, which `explain_misfit` describes.
    """
    counted = [name for name in own if is_counted(name) and not name.startswith(CAMERA_TABLE)]
    gaps = [name for name in counted if name not in from_file]
    if 0 < len(gaps) <= (1 - LEAST_FRACTION) * len(counted):
        raise WeightsError(
            f"the file does not fit backbone.name={backbone}: {summarise('tensors missing', gaps)} of "
            f"{len(counted)}. Random numbers in their place would change every feature. Give a whole file "
            f"of {backbone}, or choose the backbone that this file belongs to."
        )


def explain_misfit(
    report: WeightReport, backbone: str, own: Mapping[str, Tensor], from_file: Mapping[str, Tensor]
) -> str:
    """Say why a file was refused, the most telling difference between the two networks first."""
    offered = report.matched + len(report.unexpected) + len(report.mismatched)
    file_layout, own_layout = _layout(from_file), _layout(own)
    if file_layout != own_layout:
        reason = f"The file holds {file_layout}; {backbone} is {own_layout}."
    else:
        differences = (*report.mismatched, *report.missing, *report.unexpected)
        reason = f"Both are {own_layout}, but differ in {len(differences)} tensors, first {differences[0]}."
    return (
        f"backbone.weights={report.source} does not fit backbone.name={backbone}: "
        f"{report.matched} of the backbone's {report.total} tensors and of the file's {offered} "
        f"match in name and shape, and {LEAST_FRACTION:.0%} of both must. {reason} "
        f"Give a weight file of {backbone}, or choose the backbone that this file belongs to"
        f"{_known_choices(from_file)}."
    )


def _layout(names: Iterable[str]) -> str:
    """The network that tensor names tell of, in words."""
    names = list(names)
    if transformer := transformer_layout(names):
        return transformer
    if any(name.startswith("features.") for name in names):
        steps = {name.split(".")[1] for name in names if name.startswith("features.")}
        return f"a network of {len(steps)} `features` steps (MobileNet, VGG or DenseNet layout)"
    blocks = {match.groups() for name in names if (match := _BLOCK.match(name))}
    if not blocks:
        return f"no network known here (first tensors: {', '.join(names[:3]) or 'none'})"
    depths = "-".join(
        str(sum(stage == s for s, _ in blocks)) for stage in sorted({stage for stage, _ in blocks}, key=int)
    )
    if any(".bn1.IN." in name for name in names):
        family = "an IBN-a ResNet (its bn1 are split into IN and BN)"
    elif any(".se_module." in name for name in names):
        family = "an SE-ResNet or SE-ResNeXt (it has se_module)"
    else:
        family = "a plain ResNet (neither IBN nor SE)"
    kind = "bottleneck" if any(".conv3." in name for name in names) else "basic"
    return f"{family} with {depths} {kind} blocks"


_POSITIONS = ("pos_embed", "visual.positional_embedding", "positional_embedding")
_STEM = "patch_embed.conv."
#: Of the transformers: what stands before the number of a block, and before the place of a block in its
#: stage.
_TRANSFORMERS = {
    "a ViT": re.compile(r"^blocks\.(\d+)\."),
    "CLIP's visual tower": re.compile(r"^(?:visual\.)?transformer\.resblocks\.(\d+)\."),
    "SOLIDER's or mmcv's Swin": re.compile(r"^stages\.(\d+\.blocks\.\d+)\.attn\.w_msa\."),
    "a Swin of its authors or of timm": re.compile(r"^layers\.(\d+\.blocks\.\d+)\."),
}


#: Choices of `backbone=` by the family, the channels of the first convolution's output, and the number of
#: blocks.
_CHOICES = {
    ("a ViT", 384, 12): ("personvit_small", "transreid_ssl_vit_small"),
    ("a ViT", 768, 12): ("personvit_base",),
    ("a ViT with a stem", 384, 12): ("transreid_ssl_vit_small_ics",),
    ("a ViT with a stem", 768, 12): ("transreid_ssl_vit_base_ics",),
    ("CLIP's visual tower", 768, 12): ("clip_vit_base_16",),
    ("SOLIDER's or mmcv's Swin", 96, 12): ("solider_swin_tiny",),
    ("SOLIDER's or mmcv's Swin", 96, 24): ("solider_swin_small",),
    ("SOLIDER's or mmcv's Swin", 128, 24): ("solider_swin_base",),
}
TRANSFORMERS = frozenset(name for names in _CHOICES.values() for name in names)
_PATCHES = ("patch_embed.proj.weight", "visual.conv1.weight", "conv1.weight", "patch_embed.projection.weight")


def _known_choices(from_file: Mapping[str, Tensor]) -> str:
    """`: backbone=personvit_small`, where the file's network is a transformer that is a choice here."""
    for family, pattern in _TRANSFORMERS.items():
        blocks = {match[1] for name in from_file if (match := pattern.match(name))}
        width = next((from_file[name].shape[0] for name in _PATCHES if name in from_file), 0)
        stem = any(name.startswith(_STEM) for name in from_file)
        if choices := _CHOICES.get((f"{family} with a stem" if stem else family, width, len(blocks))):
            return f": backbone={' or '.join(choices)}"
    return ""


def transformer_layout(names: Iterable[str]) -> str:
    """The transformer that tensor names tell of, in words; nothing for another network."""
    for family, pattern in _TRANSFORMERS.items():
        blocks = {match[1] for name in names if (match := pattern.match(name))}
        if not blocks:
            continue
        parts = [f"{family} of {len(blocks)} blocks"]
        if any(name.startswith(_STEM) for name in names):
            parts.append("with a convolutional stem (ICS)")
        if any(name.startswith("norm_pre.") for name in names):
            parts.append("with CLIP's norm before them")
        if any(name.startswith("semantic_embed_") for name in names):
            parts.append("with a semantic embedding")
        return " ".join(parts)
    return ""


def summarise(label: str, names: Sequence[str], most: int = 3) -> str:
    """`2 missing: a, b`: how many, and the first of them; nothing where there are none."""
    if not names:
        return ""
    rest = ", …" if len(names) > most else ""
    return f"{len(names)} {label}: {', '.join(names[:most])}{rest}"
