"""What `reid.identify` and `eval.open_set` show: tables, figures, JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reid.figures import GallerySizes, IdentificationPoint, gallery_sizes, identification_curve, save
from reid.judging.open_set import OpenSetScores
from reid.retrieval.open_set import FPIR_TARGETS, fnir, fpir
from reid.terminal import Table


def rates_table(scores: Mapping[str, OpenSetScores], chosen: str, header: str) -> Table:
    """One row for each fusion: what its own threshold does on people that it was not fixed on."""
    shown = Table(title=header, title_justify="left", title_style="dim")
    one = next(iter(scores.values()))
    shown.caption = (
        f"95 % intervals: {one.sure.replicates:,} bootstrap replicates over {one.sure.enrolled:,} enrolled "
        f"people and {one.sure.strangers:,} strangers. FPIR and DIR at the threshold as it stands; DIR at an "
        "FPIR with the threshold that these people would need"
    )
    shown.caption_justify = "left"
    columns = ["FPIR %", "DIR %", *(f"DIR % at FPIR {label(name)}" for name in sorted(FPIR_TARGETS))]
    shown.add_column("fusion")
    for name in ("threshold", *columns):
        shown.add_column(name, justify="right")
    for fusion, each in scores.items():
        shown.add_row(
            fusion + (" (chosen)" if fusion == chosen and len(scores) > 1 else ""),
            f"{each.threshold:.4f}",
            _with(each.fpir, each.sure.fpir, 3),
            _with(each.dir, each.sure.dir),
            *(
                _with(each.dir_at[name], each.sure.dir_at[rate])
                if name in each.dir_at
                else "too few strangers"
                for name, rate in sorted(FPIR_TARGETS.items())
            ),
            style="bold" if fusion == chosen else None,
        )
    return shown


def sizes_table(scores: OpenSetScores, target: str) -> Table:
    """One row for each size of a gallery: measured, and modelled from one-to-one comparisons."""
    shown = Table(title="Galleries of other sizes, at the same threshold", title_justify="left",
                  title_style="dim")  # fmt: skip
    shown.caption = (
        "modelled: 1 - (1 - p)^N with the one-to-one false match rate p = "
        f"{100 * scores.false_match_rate:.3g} %, as if enrolled people matched a stranger independently"
    )
    shown.caption_justify = "left"
    heads = ("people N", "galleries", "FPIR %", "modelled %", "", "DIR %", f"DIR % at FPIR {label(target)}")
    for name in heads:
        shown.add_column(name, justify="left" if name == "" else "right")
    for row in scores.sizes:
        anew = "-" if row.dir_at != row.dir_at else _with(row.dir_at, row.dir_at_interval)
        shown.add_row(
            f"{row.enrolled:,}",
            str(row.draws),
            _with(row.fpir, row.fpir_interval, 3),
            f"{100 * row.modelled:.3g}",
            "the model fails" if row.model_fails else "",
            _with(row.dir, row.dir_interval),
            anew,
        )
    return shown


def _with(value: float, ends: tuple[float, float], digits: int = 0) -> str:
    if digits:
        return f"{100 * value:.{digits}g} [{100 * ends[0]:.{digits}g}, {100 * ends[1]:.{digits}g}]"
    return f"{100 * value:.1f} [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"


def label(target: str) -> str:
    return target.removeprefix("fpir_")


def open_set_lines(scores: OpenSetScores, data: str) -> str:
    """What `eval.open_set` measured, in words."""
    rates = "; ".join(
        f"{_with(value, scores.sure.dir_at[FPIR_TARGETS[name]])} % at FPIR {label(name)}"
        for name, value in sorted(scores.dir_at.items())
    )
    return (
        f"open set, {data}: DIR at rank 1 is {rates} (95 % intervals over people), of "
        f"{scores.sure.enrolled:,} people enrolled and {scores.sure.strangers:,} strangers, drawn at random. "
        "The thresholds are these people's own: python -m reid.identify fixes one on others"
    )


def draw_open_set(
    folder: Path, scores: Mapping[str, OpenSetScores], title: str, target: str | None = None
) -> list[Path]:
    """Write the two figures to `folder`: of all fusions, and of the first for galleries of several sizes.

    target: what the thresholds were fixed for on other people; None where they are these people's own.
    """
    curves = {}
    for fusion, each in scores.items():
        limits = each.found.stranger
        curves[fusion] = (fpir(each.found, limits), fnir(each.found, limits))
    points = [
        IdentificationPoint(fusion, each.fpir, 1 - each.dir, each.sure.fpir,
                            (1 - each.sure.dir.high, 1 - each.sure.dir.low))
        for fusion, each in scores.items()
        if target is not None
    ]  # fmt: skip
    first = next(iter(scores.values()))
    written = [
        save(
            identification_curve(curves, points, title=f"{title}: who, or nobody"),
            folder / "identification.png",
        )
    ]
    if len(first.sizes) > 1:
        rows = first.sizes
        sizes = GallerySizes(
            [row.enrolled for row in rows],
            [row.fpir for row in rows], [row.fpir_interval for row in rows], [row.modelled for row in rows],
            [row.dir_at for row in rows], [row.dir_at_interval for row in rows],
        )  # fmt: skip
        drawn = gallery_sizes(sizes, wanted=first.wanted, title=f"{title}: more people enrolled")
        written.append(save(drawn, folder / "gallery_sizes.png"))
    return written


def as_json(scores: OpenSetScores) -> dict[str, Any]:
    """All that was measured of one fusion, but for the curve; a rate without enough strangers is left out."""
    return {
        "threshold": scores.threshold,
        "fpir": scores.fpir,
        "dir": scores.dir,
        "dir_at": scores.dir_at,
        "false_match_rate": scores.false_match_rate,
        "stranger_searches": scores.stranger_searches,
        "mated_searches": scores.found.mated_searches,
        "enrolled": scores.sure.enrolled,
        "strangers": scores.sure.strangers,
        "intervals": {
            "fpir": scores.sure.fpir,
            "dir": scores.sure.dir,
            "dir_at": {f"{rate:.0e}": interval for rate, interval in scores.sure.dir_at.items()},
            "threshold_at": {f"{rate:.0e}": interval for rate, interval in scores.sure.threshold_at.items()},
            "replicates": scores.sure.replicates,
        },
        "sizes": [
            {
                **{
                    key: value if value == value else None
                    for key, value in asdict(row).items()
                    if not isinstance(value, tuple)
                },
                **{
                    key: [end if end == end else None for end in value]
                    for key, value in asdict(row).items()
                    if isinstance(value, tuple)
                },
                "model_fails": row.model_fails,
            }
            for row in scores.sizes
        ],
    }
