"""The table of `experiments.exports`: a model measured again replaces its own rows, and leaves the others."""

import csv
from pathlib import Path
from typing import Any

import pytest

from experiments.exports import __main__ as study


def row(backbone: str, precision: str, **more: Any) -> dict[str, Any]:
    return {
        "backbone": backbone,
        "data": "drawn",
        "size": "64x32",
        "target": "boxmot",
        "precision": precision,
        **more,
    }


def test_rows_of_other_models_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(study, "RESULTS", tmp_path / "results")
    study._write(
        "trained", iter([row("a", "float32", mAP=0.5), row("a", "int8"), row("b", "int8", MiB=1.26)])
    )
    study._write("trained", iter([row("a", "float32", mAP=0.25, refused="why")]))
    found = list(csv.DictReader((tmp_path / "results" / "trained.csv").open()))
    assert [(one["backbone"], one["mAP"], one["MiB"]) for one in found] == [
        ("b", "", "1.3"),
        ("a", "0.2500", ""),
    ]
    assert found[1]["refused"] == "why"


def test_a_row_is_written_in_percent_and_with_a_factor(capsys: pytest.CaptureFixture[str]) -> None:
    cells = dict.fromkeys(study.COLUMNS, "") | {
        "backbone": "a",
        "mAP": "0.7591",
        "images/s": "30",
        "images/s PyTorch": "12",
    }
    line = study.markdown(cells)
    assert "| 75.91 |" in line
    assert "| 30 | 12 | 2.5 |" in line
    with pytest.raises(SystemExit):
        study.main([])
    assert "nothing to export" in capsys.readouterr().err
