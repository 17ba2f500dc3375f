"""What the audit of a dataset finds, each kind of trouble made by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from reid.data import Crop, ReidDataset
from reid.data.audit import Counts, audit


def draw(path: Path, shade: int, height: int = 64, width: int = 32) -> Path:
    """An image whose bytes depend on its shade and size alone."""
    Image.new("RGB", (width, height), (shade, 0, 0)).save(path)
    return path


@pytest.fixture
def clean(tmp_path: Path) -> ReidDataset:
    """Two people trained on, one looked for by camera 0 and found by camera 1, and a distractor."""
    places = [("a", 1, 0), ("b", 1, 1), ("c", 2, 0), ("q", 5, 0), ("g", 5, 1), ("d", 0, 2)]
    crops = [Crop(draw(tmp_path / f"{n}.png", 10 * i), pid, cam) for i, (n, pid, cam) in enumerate(places)]
    return ReidDataset("made", tmp_path, tuple(crops[:3]), (crops[3],), tuple(crops[4:]))


def cases(dataset: ReidDataset) -> dict[str, list[str]]:
    """The cases by kind, without the folder in which everything lies."""
    found = audit(dataset)
    return {
        finding.kind: [case.replace(f"{dataset.root}/", "") for case in finding.cases]
        for finding in found.findings
    }


def test_a_clean_set_has_counts_and_no_findings(clean: ReidDataset) -> None:
    found = audit(clean)
    assert found.findings == ()
    assert found.repeats == 0
    assert found.counts == {"train": Counts(2, 3, 2), "query": Counts(1, 1, 1), "gallery": Counts(1, 2, 2)}


def test_the_same_bytes_under_two_people(clean: ReidDataset) -> None:
    draw(clean.root / "c.png", shade=0)
    assert cases(clean) == {"two_people": ["a.png (pid 1) = c.png (pid 2)"]}


def test_a_repeat_of_the_same_person_is_only_counted(clean: ReidDataset) -> None:
    draw(clean.root / "b.png", shade=0)
    found = audit(clean)
    assert (found.repeats, found.findings) == (1, ())


def test_people_and_bytes_shared_by_train_and_test(clean: ReidDataset) -> None:
    leak = Crop(draw(clean.root / "x.png", shade=40), 5, 3)  # the bytes of g.png, who is 5 too
    assert cases(replace(clean, train=(*clean.train, leak), names={5: "eve"})) == {
        "shared_people": ["eve: 1 images in train, 2 images in test"],
        "shared_images": ["x.png (train) = g.png (gallery)"],
    }
    assert cases(replace(clean, val=(leak,))) == {
        "shared_people": ["pid 5: 1 images in val, 2 images in test"],
        "shared_images": ["x.png (val) = g.png (gallery)"],
    }


def test_distractors_may_stand_in_train_and_gallery(clean: ReidDataset) -> None:
    extra = Crop(draw(clean.root / "x.png", shade=99), 0, 3)
    assert cases(replace(clean, train=(*clean.train, extra))) == {}


def test_images_that_cannot_be_read_and_tiny_ones(clean: ReidDataset) -> None:
    (clean.root / "a.png").unlink()
    (clean.root / "b.png").write_bytes(b"")
    whole = (clean.root / "c.png").read_bytes()
    (clean.root / "c.png").write_bytes(whole[: len(whole) // 2])
    draw(clean.root / "g.png", shade=1, height=31)
    draw(clean.root / "d.png", shade=2, height=32, width=16)
    found = cases(clean)
    assert found["tiny"] == ["g.png: 31x32"]
    assert found["unreadable"][:2] == ["a.png: No such file or directory", "b.png: empty file"]
    assert found["unreadable"][2].startswith("c.png: ")
    assert [found for finding in audit(clean, tiny=(31, 16)).findings if finding.kind == "tiny"] == []


def test_queries_without_a_match_and_why(clean: ReidDataset) -> None:
    absent = Crop(draw(clean.root / "y.png", shade=77), 6, 0)
    same = Crop(draw(clean.root / "z.png", shade=78), 5, 1)
    unmatched = replace(clean, query=(*clean.query, absent, same))
    assert cases(unmatched) == {
        "query_absent": ["y.png (pid 6)"],
        "query_same_camera": ["z.png (pid 5, camid 1)"],
    }
    assert cases(replace(unmatched, cameras=False)) == {"query_absent": ["y.png (pid 6)"]}
