"""Saving, and leaving no trace: settings, pyplot, half-written files."""

import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from PIL import Image

from reid.figures import cmc_curves, save
from reid.figures.style import WIDTH, headline, new_figure


def test_save_writes_a_png_of_readme_width(tmp_path: Path) -> None:
    path = save(cmc_curves({"ours": [0.5, 0.75]}), tmp_path / "made" / "cmc.png")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == 1080
    assert [entry.name for entry in path.parent.iterdir()] == ["cmc.png"]


@pytest.mark.parametrize("length", [10, 76, 100])
def test_a_title_stays_in_its_figure(length: int) -> None:
    figure = new_figure(3.0)
    title = headline(figure, ("the hardest pairs of M and W " * 9)[:length])
    figure.canvas.draw()
    assert title.get_window_extent().x1 <= figure.bbox.x1
    assert figure.get_size_inches()[0] == WIDTH


def test_save_keeps_the_old_file_when_drawing_fails(tmp_path: Path) -> None:
    class Broken(Figure):
        def draw(self, renderer: RendererBase) -> None:
            raise RuntimeError("broken")

    path = tmp_path / "cmc.png"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="broken"):
        save(Broken(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_save_refuses_other_formats(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"end in \.png"):
        save(new_figure(1.0), tmp_path / "cmc.jpg")


def test_settings_are_left_alone_and_do_not_leak_in(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    figure = cmc_curves({"ours": [0.5, 0.75]})
    plain = save(figure, tmp_path / "plain.png").read_bytes()
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({"font.size": 30, "ytick.labelsize": 30, "axes.grid": False}):
        assert save(cmc_curves({"ours": [0.5, 0.75]}), tmp_path / "other.png").read_bytes() == plain


@pytest.mark.slow
def test_pyplot_is_never_imported() -> None:
    code = "import sys, reid.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
