"""Which backbone a set of named tensors belongs to, by names and shapes alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

import torch
from torch import Tensor

from reid.models.build import backbone_names, build_backbone
from reid.models.matching import LEAST_FRACTION, TRANSFORMERS, WeightReport, compare, transformer_layout
from reid.models.weights import WeightsError


def recognise(from_file: Mapping[str, Tensor], names: Iterable[str] | None = None) -> str:
    """The name of the one backbone all of whose tensors are among `from_file`.

    from_file: named as in a bare backbone (`backbone_tensors`); up to 10 % of them may be others.
    names: of the backbones to look at; None stands for all that `build_backbone` builds without options,
        those of the file's kind (transformer or not).

    Raises WeightsError, in words, when no backbone fits, or more than one fits equally well.
    """
    if names is None:
        transformer = bool(transformer_layout(from_file))
        names = [name for name in backbone_names() if (name in TRANSFORMERS) == transformer]
    return choose({name: _compared(from_file, name) for name in names})


def choose(reports: Mapping[str, WeightReport]) -> str:
    """The network of these reports, by name, that the same tensors serve best; raises as `recognise`."""
    fitting = {name: report for name, report in reports.items() if report.fits and report.fraction == 1}
    if not fitting:
        nearest = max(reports, key=lambda name: min(reports[name].fraction, reports[name].used))
        report = reports[nearest]
        differences = (*report.mismatched, *report.missing, *report.unexpected)
        raise WeightsError(
            f"the tensors of the file are those of no network known here. The nearest is {nearest}: "
            f"{report.matched} of its {report.total} tensors are there (first difference: {differences[0]}), "
            f"and all of them, with {LEAST_FRACTION:.0%} of the file's, must be"
        )
    best = max(report.used for report in fitting.values())
    equal = [name for name, report in fitting.items() if report.used == best]
    if len(equal) > 1:
        raise WeightsError(
            f"the tensors of the file fit {' and '.join(equal)} equally well: say which network it is, by "
            "--backbone NAME"
        )
    return equal[0]


def _compared(from_file: Mapping[str, Tensor], name: str) -> WeightReport:
    with torch.device("meta"):  # names and shapes, no numbers
        network = build_backbone(name)
    adapted = dict(from_file)
    if network.adapt is not None:
        with suppress(WeightsError):  # of another network
            adapted = network.adapt(network, adapted)[0]
    return compare(network.state_dict(), adapted, source="")
