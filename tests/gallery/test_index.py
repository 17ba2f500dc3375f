"""The index against brute force in float64, and against what may happen to its files."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from drawn_index import SIZE, Floats, drawn, facts, rows
from pyarrow import parquet

from reid.errors import UsageError
from reid.gallery import Facts, Index, IndexFault, Row, approximate
from reid.gallery.facts import network_options
from reid.judging.stored_threshold import FeatureSpace
from reid.models.build import build_backbone


def brute(queries: Floats, gallery: Floats, metric: str) -> npt.NDArray[np.float64]:
    """(Q, G) distances, one pair at a time."""
    found = np.empty((len(queries), len(gallery)))
    for i, a in enumerate(queries.astype(np.float64)):
        for j, b in enumerate(gallery.astype(np.float64)):
            if metric == "cosine":
                found[i, j] = 1 - a @ b / np.sqrt((a @ a) * (b @ b))
            else:
                found[i, j] = np.sqrt(((a - b) ** 2).sum())
    return found


@pytest.mark.parametrize(("metric", "unit"), [("euclidean", True), ("euclidean", False), ("cosine", False)])
def test_a_search_is_brute_force_with_ties_by_row_number(tmp_path: Path, metric: str, unit: bool) -> None:
    index = Index.create(tmp_path / "g", facts(space=FeatureSpace(metric, unit, "after")))
    gallery = drawn(300, unit=unit)
    gallery[200:220] = gallery[7]  # the same picture again and again
    index.add(gallery[:120], rows(120))
    index.add(gallery[120:], rows(180, 120))
    queries = np.concatenate([gallery[[7, 120]], drawn(9, seed=1, unit=unit)])
    expected = brute(queries, gallery, metric)
    order = np.lexsort((np.broadcast_to(np.arange(300), expected.shape), expected.round(12)))
    hits = Index.open(tmp_path / "g").search(queries, 40)
    assert np.array_equal(hits.rows, order[:, :40])
    assert np.allclose(hits.distances, np.take_along_axis(expected, hits.rows, 1), rtol=0, atol=1e-12)
    assert hits.rows[0, :3].tolist() == [7, 200, 201]
    one = index.search(queries[3:4], 40)
    assert np.array_equal(one.distances[0], hits.distances[3])  # whatever else is asked with it


def test_filters_come_before_the_nearest_are_counted(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "g", facts())
    gallery = drawn(200)
    known = rows(200)
    known[150:] = [Row(row.path, row.pid) for row in known[150:]]  # no camera, no time
    index.add(gallery, known)
    expected = brute(gallery[:4], gallery, "euclidean")
    keep = [n for n in range(150) if n % 3 in (0, 2) and 20 <= n <= 90]
    hits = index.search(gallery[:4], 10, cameras=[0, 2], since=20, until=90)
    for query in range(4):
        nearest = sorted(keep, key=lambda row: (expected[query, row], row))[:10]
        assert hits.rows[query].tolist() == nearest
    hits = index.search(gallery[:4], 3, without=[[n] for n in range(4)])
    for query in range(4):
        nearest = sorted(set(range(200)) - {query}, key=lambda row: (expected[query, row], row))[:3]
        assert hits.rows[query].tolist() == nearest
    assert (index.search(gallery[:1], 5, cameras=[9]).rows == -1).all()


def test_what_is_no_query_is_refused(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "g", facts())
    index.add(drawn(5), rows(5))
    for features in (drawn(1)[:, :3], drawn(1)[0], np.full((1, SIZE), np.nan)):
        with pytest.raises(ValueError, match="expected finite numbers"):
            index.search(features, 1)
    with pytest.raises(ValueError, match="expected 1 or more"):
        index.search(drawn(1), 0)


def test_an_empty_index_and_more_than_there_are(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "g", facts())
    assert len(index) == len(index.table) == 0
    hits = index.search(drawn(2), 3)
    assert (hits.rows == -1).all()
    assert np.isinf(hits.distances).all()
    index.add(drawn(2), rows(2))
    assert sorted(index.search(drawn(1), 4).rows[0].tolist()) == [-1, -1, 0, 1]


def test_the_same_path_again_takes_the_place_of_its_row(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "g", facts())
    first, second = drawn(10), drawn(10, seed=1)
    index.add(first, rows(10))
    assert index.add(second[3:6], [*rows(2, 3), rows(1, 20)[0]]) == (1, 2)
    assert len(index) == 11
    assert [Path(path).stem for path in index.table.path] == [*"0125678934", "20"]
    assert np.array_equal(
        index.features(range(11)), np.concatenate([first[[0, 1, 2, 5, 6, 7, 8, 9]], second[3:6]])
    )
    twice = [*rows(1, 30), *rows(1, 30)]
    assert index.add(second[:2], twice) == (1, 0)
    assert np.array_equal(index.features([11]), second[1:2])
    before = index.search(second, 5)
    index.compact()
    after = Index.open(tmp_path / "g").search(second, 5)
    assert np.array_equal(before.rows, after.rows)
    assert np.array_equal(before.distances, after.distances)


def test_removed_people_and_paths_leave_the_disk(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "g", facts())
    gallery = drawn(50)
    index.add(gallery[:20], rows(20))
    index.add(gallery[20:], rows(30, 20))
    assert index.remove(pids=[1], paths=["/crops/40.jpg", "/crops/none.jpg"]) == 6
    assert index.remove(pids=[1]) == 0
    kept = [n for n in range(50) if n // 5 != 1 and n != 40]
    again = Index.open(tmp_path / "g")
    assert again.paths() == [f"/crops/{n}.jpg" for n in kept]
    assert np.array_equal(again.features(range(len(kept))), gallery[kept])
    expected = brute(gallery[:1], gallery[kept], "euclidean")[0]
    assert again.search(gallery[:1], 44).rows[0].tolist() == sorted(range(44), key=lambda row: expected[row])
    for file in (tmp_path / "g").iterdir():
        assert gallery[5].tobytes() not in file.read_bytes(), file
    assert again.remove(pids=range(99)) == 44
    assert len(again) == 0


def test_another_model_is_refused_in_words(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "g", facts(), checkpoint="/models/model.pt")
    index.check(facts())
    others = {
        "another model made them": facts(model="b" * 64),
        "compared by the euclidean distance, L2-normalised": facts(
            space=FeatureSpace("cosine", True, "after")
        ),
        "24 numbers each, not 3": facts(size=3),
        "height 256, not 384": facts(preprocessing={"height": 384, "width": 128}),
    }
    for words, other in others.items():
        with pytest.raises(IndexFault, match=words) as refusal:
            index.check(other)
        assert "/models/model.pt" in str(refusal.value)
    with pytest.raises(IndexFault, match="another model"):
        index.add(drawn(1), rows(1), facts(model="b" * 64))
    assert Index.open(tmp_path / "g").facts == facts()


def test_a_network_whose_options_differ_makes_other_features_of_the_same_tensors(tmp_path: Path) -> None:
    def of(stride: int, cameras: tuple[int, ...] = (), weight: float = 3.0, **options: Any) -> Facts:
        backbone = SimpleNamespace(notes=(), cameras=cameras, camera_weight=weight)
        description = {"backbone": {"name": "resnet50", **options}, "last_stride": stride}
        return facts(network=network_options(backbone, description))

    Index.create(tmp_path / "g", of(1, stem_relu=False))
    index = Index.open(tmp_path / "g")
    assert index.facts == of(1, stem_relu=None)
    index.check(of(1))
    for words, other in {
        "their network had last_stride 1, not 2": of(2),
        "their network had stem_relu False, not True": of(1, stem_relu=True),
    }.items():
        with pytest.raises(IndexFault, match=words):
            index.check(other)
    solider = of(1, semantic_weight=0.2)
    assert "semantic_weight 0.2, not 0.5" in solider.difference(of(1, semantic_weight=0.5))
    assert "camera_weight 3.0, not 1.5" in of(1, (2, 5)).difference(of(1, (2, 5), 1.5))
    assert of(1).difference(of(1, weight=1.5)) == ""  # of no camera
    older = solider.as_json()
    del older["network"]
    assert Facts.from_json(older).difference(of(2, semantic_weight=0.5)) == ""


def test_what_means_nothing_to_a_network_is_no_fact_of_it() -> None:
    def of(pooling: str | None, stride: int) -> dict[str, Any]:
        network = build_backbone("personvit_small", stride, image_size=(32, 16), pooling=pooling)
        return network_options(network, {"backbone": {}, "last_stride": stride})

    assert of(None, 1) == of("cls", 2) == {"pooling": "cls"}
    assert of("patch", 1) == {"pooling": "patch"}
    assert network_options(build_backbone("resnet18"), {"backbone": {}, "last_stride": 1}) == {
        "last_stride": 1
    }


def test_odd_names_come_back_as_they_were(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "g", facts())
    names = ["/crops/line\nbreak.jpg", "/crops/ünï cödé 人.jpg", "/crops/'\"\\`,;.jpg", "/crops/ .jpg"]
    index.add(drawn(4), [Row(name, name=name) for name in names])
    assert list(Index.open(tmp_path / "g").table.path) == names
    assert index.column("name") == names
    assert index.row(1) == Row(names[1], 4, name=names[1])  # a number of its own


def test_crops_moved_with_their_index_are_found(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "crops").mkdir(parents=True)
    for name in "ab":
        (old / "crops" / f"{name}.jpg").touch()
    index = Index.create(old / "g", facts(), checkpoint=str(old / "crops" / "a.jpg"))
    index.add(drawn(2), [Row(old / "crops" / "a.jpg"), Row(old / "crops" / "b.jpg")])
    old.rename(new)
    index = Index.open(new / "g")
    assert index.place(1) == new / "crops" / "b.jpg"
    assert index.checkpoint == str(new / "crops" / "a.jpg")
    assert index.add(drawn(1), [Row(new / "crops" / "b.jpg")]) == (0, 1)
    assert index.paths() == [str(new / "crops" / f"{name}.jpg") for name in "ab"]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_searching_writes_nothing(tmp_path: Path) -> None:
    Index.create(tmp_path / "g", facts()).add(drawn(5), rows(5))
    (tmp_path / "g" / ".lock").unlink(missing_ok=True)
    before = files(tmp_path / "g")
    Index.open(tmp_path / "g").search(drawn(2), 3)
    assert files(tmp_path / "g") == before


DAMAGE = {
    "a short segment": ("features-000001.npy", lambda data: data[:-7]),
    "a segment of garbage": ("features-000001.npy", lambda data: b"\0" * len(data)),
    "an empty segment": ("features-000001.npy", lambda data: b""),
    "no segment": ("features-000001.npy", lambda data: None),
    "a short table": ("table.parquet", lambda data: data[:-7]),
    "a table of garbage": ("table.parquet", lambda data: b"PAR1" + b"\x13" * 200 + b"PAR1"),
    "an empty table": ("table.parquet", lambda data: b""),
    "no table": ("table.parquet", lambda data: None),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_said_in_words(tmp_path: Path, damage: str) -> None:
    Index.create(tmp_path / "g", facts()).add(drawn(5), rows(5))
    name, change = DAMAGE[damage]
    data = change((tmp_path / "g" / name).read_bytes())
    (tmp_path / "g" / name).unlink()
    if data is not None:
        (tmp_path / "g" / name).write_bytes(data)
    with pytest.raises(IndexFault, match=r"holds no index|is damaged"):
        Index.open(tmp_path / "g")


def test_a_table_of_something_else_and_of_another_version_is_refused(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "g", facts())
    index.add(drawn(5), rows(5))
    file = tmp_path / "g" / "table.parquet"
    table = parquet.read_table(file)
    meta = json.loads(table.schema.metadata[b"reid.index"])
    for change, words in (
        (
            {"format": 2},
            "made by a newer version of the suite: it has format 2, and this version reads",
        ),
        ({"segments": meta["segments"] * 2}, None),
        ({"segments": []}, "rows that no segment holds"),
        ({"segments": [{"file": "../x.npy", "rows": 5, "crc32": 0}]}, "no name of a file beside it"),
        ({"segments": [{"file": "x.npy", "rows": "5", "crc32": 0}]}, "is damaged"),
        ({"facts": {"model": "a"}}, "is damaged"),
        ({"codes": {"stem": "codes"}}, "is damaged"),
        ({"kind": 7}, "is damaged"),
        ({"home": None}, "is damaged"),
    ):
        parquet.write_table(
            table.replace_schema_metadata({b"reid.index": json.dumps({**meta, **change}).encode()}), file
        )
        if words:
            with pytest.raises(IndexFault, match=words):
                Index.open(tmp_path / "g")
    later = {**meta, "facts": {**meta["facts"], "space": {**meta["facts"]["space"], "later": 1}}}
    parquet.write_table(table.replace_schema_metadata({b"reid.index": json.dumps(later).encode()}), file)
    with pytest.raises(IndexFault, match="not of this version"):
        Index.open(tmp_path / "g").check(facts())
    parquet.write_table(table.replace_schema_metadata(None), file)
    with pytest.raises(IndexFault, match="no table of an index"):
        Index.open(tmp_path / "g")


def test_a_folder_in_use_for_something_else_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(IndexFault, match="is not empty"):
        Index.create(tmp_path, facts())
    Index.create(tmp_path / "g", facts())
    with pytest.raises(IndexFault, match="is not empty"):
        Index.create(tmp_path / "g", facts())


def test_a_full_disk_leaves_the_index_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index.create(tmp_path / "g", facts())
    index.add(drawn(5), rows(5))
    before = files(tmp_path / "g")
    monkeypatch.setattr(
        "reid.gallery.index.os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, os.strerror(28)))
    )
    for change in (
        lambda: index.add(drawn(5), rows(5, 9)),
        lambda: index.remove(pids=[0]),
        index.compact,
    ):
        with pytest.raises(OSError, match="No space left"):
            change()
        assert files(tmp_path / "g") == before
    monkeypatch.undo()
    assert index.add(drawn(5), rows(5, 9)) == (5, 0)


def test_two_objects_change_one_index(tmp_path: Path) -> None:
    first = Index.create(tmp_path / "g", facts())
    second = Index.open(tmp_path / "g")
    first.add(drawn(5), rows(5))
    assert second.add(drawn(5), rows(5, 3)) == (3, 2)
    assert len(second) == 8
    assert second.remove(pids=[0]) == 5
    assert first.add(drawn(1), rows(1, 50)) == (1, 0)
    assert [Path(path).stem for path in first.paths()] == ["5", "6", "7", "50"]


def test_many_small_additions_leave_few_segments(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "g", facts())
    gallery = drawn(40)
    for number in range(40):
        index.add(gallery[number : number + 1], rows(1, number))
    assert len(list((tmp_path / "g").glob("features-*"))) <= 6
    assert np.array_equal(index.features(range(40)), gallery)
    assert index.damaged_files() == []


def test_a_changed_byte_of_a_segment_is_found_by_a_check(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "g", facts())
    index.add(drawn(5), rows(5))
    file = tmp_path / "g" / "features-000001.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert Index.open(tmp_path / "g").damaged_files() == [file.name]


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_codes_find_what_comparing_all_finds(tmp_path: Path, metric: str) -> None:
    pytest.importorskip("faiss", reason="the extra search is not installed")
    random = np.random.default_rng(0)
    gallery = drawn(9000, unit=metric == "euclidean")
    index = Index.create(tmp_path / "g", facts(space=FeatureSpace(metric, metric == "euclidean", "after")))
    index.add(gallery[:8500], rows(8500))
    queries = gallery[random.integers(0, 9000, 30)] + 0.01 * drawn(30, seed=3)
    assert "few enough" in index.arrange()
    assert "codes" in index.arrange("codes")
    index.add(gallery[8500:], rows(500, 8500))  # compared one by one until there are more of them
    assert index.add(gallery[:20], rows(20)) == (0, 20)
    index.arrange()
    assert index._meta["codes"]["rows"] == 8500
    filters: dict[str, Any] = {"cameras": [0, 2], "since": 100.0}
    found = [index.search(queries, 20), index.search(queries, 10, **filters)]
    reopened = Index.open(tmp_path / "g")
    assert np.array_equal(reopened.search(queries, 20).rows, found[0].rows)
    assert "as was chosen" in reopened.arrange("exact")
    assert not list((tmp_path / "g").glob("codes*"))
    exact = [reopened.search(queries, 20), reopened.search(queries, 10, **filters)]
    for hits, all_compared in zip(found, exact, strict=True):
        same = hits.rows == all_compared.rows
        assert same.mean() > 0.97
        assert np.array_equal(hits.distances[same], all_compared.distances[same])
    index.arrange("codes")
    index.remove(pids=[0])
    assert not list((tmp_path / "g").glob("codes*"))  # they hold what was removed
    index.arrange()
    assert len(list((tmp_path / "g").glob("codes*"))) == 2
    assert index.damaged_files() == []
    halves = next((tmp_path / "g").glob("codes*.f16"))
    content = halves.read_bytes()
    halves.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert Index.open(tmp_path / "g").damaged_files() == [halves.name]
    (next((tmp_path / "g").glob("codes*.codes"))).write_bytes(b"{}")
    with pytest.raises(IndexFault, match="To make its codes anew"):
        Index.open(tmp_path / "g").search(queries, 5)


def test_small_galleries_need_no_faiss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    index = Index.create(tmp_path / "g", facts())
    gallery = drawn(50)
    index.add(gallery, rows(50))
    assert "exact" in index.arrange()
    assert index.search(gallery[7:8], 1).rows.tolist() == [[7]]
    approximate._faiss.cache_clear()
    with pytest.raises(UsageError, match="pip install"):
        index.arrange("codes")
    assert Index.open(tmp_path / "g").search(gallery[7:8], 1).rows.tolist() == [[7]]


def test_codes_of_a_handful_are_refused(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "g", facts())
    index.add(drawn(5), rows(5))
    with pytest.raises(UsageError, match="--kind exact"):
        index.arrange("codes")


def test_two_who_add_at_once_give_no_number_to_two_people(tmp_path: Path) -> None:
    one = Index.create(tmp_path / "g", facts())
    other = Index.open(tmp_path / "g")
    ann, bob = one.numbered([Row("/a.jpg", name="ann")]), other.numbered([Row("/b.jpg", name="bob")])
    assert ann[0].pid == bob[0].pid == 1  # neither knows of the other yet
    one.add(drawn(1), ann)
    other.add(drawn(1), bob)
    other.add(drawn(1), [Row("/c.jpg", 1, name="bob")])
    assert other.column("name") == ["ann", "bob", "bob"]
    assert other.column("pid") == [1, 2, 2]
    assert other.remove(pids=[1]) == 1
    with pytest.raises(IndexFault, match="that is the number of 'bob'"):
        other.add(drawn(1), [Row("/e.jpg", 2)])


def test_a_changed_byte_of_the_table_changes_no_row_in_silence(tmp_path: Path) -> None:
    made = Index.create(tmp_path / "g", facts())
    made.add(drawn(20), rows(20))
    table = tmp_path / "g" / "table.parquet"
    content = table.read_bytes()
    refused = 0
    for at in range(0, len(content), 97):
        table.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        try:
            opened = Index.open(tmp_path / "g")
        except IndexFault as fault:
            refused += "damaged" in str(fault)
        else:
            assert opened.table.equals(made.table)
            assert opened.facts == made.facts
    assert refused > 10


def test_only_what_an_index_wrote_is_swept_up(tmp_path: Path) -> None:
    made = Index.create(tmp_path / "g", facts())
    mine = [tmp_path / "g" / name for name in ("features-of-mine.npy", "codes-1.txt")]
    left = tmp_path / "g" / ".features-000009.npy.partial"  # by a process that was killed
    for path in (*mine, left):
        path.write_text("kept")
    made.add(drawn(5), rows(5))
    assert [path.exists() for path in (*mine, left)] == [True, True, False]
