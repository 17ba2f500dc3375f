"""Codes of 4 bits with a second look, against brute force on small drawn galleries."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from reid.gallery import approximate
from reid.gallery.approximate import Approximate, ApproximateFault, build, choose, load

faiss = pytest.importorskip("faiss")

ROWS, SIZE, PEOPLE = 6_000, 64, 400
GIB = 2**30
Floats = npt.NDArray[np.float32]


def drawn(rows: int, seed: int) -> Floats:
    """People as clusters, fifteen images each, of different lengths."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((PEOPLE, SIZE))
    spread = generator.uniform(0.3, 1.2, (rows, 1))
    near = centres[generator.integers(PEOPLE, size=rows)] + spread * generator.standard_normal((rows, SIZE))
    return np.asarray(7 * near, np.float32)


def brute(queries: Floats, gallery: Floats, metric: str, count: int) -> npt.NDArray[np.int64]:
    """The nearest rows by full sorts in float64."""
    q, g = queries.astype(np.float64), gallery.astype(np.float64)
    if metric == "cosine":
        q, g = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (q, g))
    squared = np.square(g).sum(axis=1) - 2 * q @ g.T
    return np.argsort(squared, axis=1, kind="stable")[:, :count]


def recall(found: npt.NDArray[np.int64], exact: npt.NDArray[np.int64]) -> float:
    pairs = zip(found, exact, strict=True)
    return float(np.mean([len(np.intersect1d(one, other)) / len(other) for one, other in pairs]))


GALLERY, QUERIES = drawn(ROWS, 2), drawn(40, 3)


@pytest.fixture(scope="module")
def stem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the gallery, which came in three parts."""
    stem = tmp_path_factory.mktemp("approximate") / "index-1"
    build(np.split(GALLERY, [10, 4_000]), "codes", "euclidean", stem)
    return stem


@pytest.fixture(scope="module")
def index(stem: Path) -> Approximate:
    return load(stem, ROWS)


@pytest.mark.slow
def test_the_recall_is_the_one_that_the_build_measured(index: Approximate) -> None:
    exact = brute(QUERIES, GALLERY, "euclidean", 100)
    for asked, setting in index.settings.items():
        found = recall(index.candidates(QUERIES, 100, recall=asked), exact)
        assert setting.recall >= asked
        assert found >= asked - 0.01
        assert abs(found - setting.recall) < 0.02


def test_one_query_finds_what_it_finds_among_others(index: Approximate) -> None:
    together = index.candidates(QUERIES, 20)
    assert together.shape == (40, 20 + 16 + 2)
    for number in (0, 7, 39):
        np.testing.assert_array_equal(index.candidates(QUERIES[number], 20)[0], together[number])


def test_the_threads_of_the_caller_stay_as_they_were(index: Approximate) -> None:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        index.candidates(QUERIES[:1], 5)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize("left", [0, 3, 1_000, 5_500])
def test_a_filter_is_exact(index: Approximate, left: int) -> None:
    """No row beyond the filter is found, few rows are all found, and the nearest of many."""
    allowed = np.zeros(ROWS, bool)
    allowed[np.random.default_rng(left).choice(ROWS, left, replace=False)] = True
    rows = np.flatnonzero(allowed)
    found = index.candidates(QUERIES, 10, allowed)
    assert np.isin(found, [*rows, -1]).all()
    exact = (
        rows[brute(QUERIES, GALLERY[rows], "euclidean", min(10, left))] if left else np.empty((40, 0), int)
    )
    if left <= approximate.MOST_CANDIDATES:
        assert not left or recall(found, exact) == 1  # float16 may put the last ones into another order
    else:
        assert recall(found, exact) >= 0.99
    assert ((found >= 0).sum(axis=1) == min(left, found.shape[1])).all()


def test_more_than_were_measured_are_found_too(index: Approximate) -> None:
    assert recall(index.candidates(QUERIES[:5], 400), brute(QUERIES[:5], GALLERY, "euclidean", 400)) >= 0.97
    everything = index.candidates(QUERIES[:1], ROWS)
    np.testing.assert_array_equal(np.sort(everything[0][everything[0] >= 0]), np.arange(ROWS))


@pytest.mark.slow
def test_rows_that_were_added_or_left_out_are_encoded_by_what_was_learned(
    stem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = drawn(1_500, 4)
    parts = [GALLERY[100:], more]
    with monkeypatch.context() as patch:
        patch.setattr(approximate, "_learn", lambda *_: pytest.fail("learned anew"))
        build(parts, "codes", "euclidean", tmp_path / "grown", trained=stem)
    grown = load(tmp_path / "grown", ROWS + 1_400)
    exact = brute(QUERIES, np.concatenate(parts), "euclidean", 100)
    assert recall(grown.candidates(QUERIES, 100), exact) >= 0.98
    np.testing.assert_array_equal(grown.candidates(more[:20], 1)[:, 0], np.arange(5_900, 5_920))
    # Of another metric, or for a gallery that has outgrown it, an old index is not taken over.
    assert approximate._reusable(stem, ROWS, SIZE, cosine=True) is None
    assert approximate._reusable(stem, 5 * ROWS, SIZE, cosine=False) is None
    assert approximate._reusable(tmp_path / "none", ROWS, SIZE, cosine=False) is None


@pytest.mark.slow
def test_the_cosine_and_features_that_float16_could_not_hold(tmp_path: Path) -> None:
    for metric, factor in (("cosine", 1.0), ("euclidean", 1e6), ("euclidean", 1e-6)):
        gallery, queries = GALLERY[:2_000] * np.float32(factor), QUERIES[:10] * np.float32(factor)
        build([gallery], "codes", metric, tmp_path / "index")
        found = load(tmp_path / "index", 2_000).candidates(queries, 20)
        assert recall(found, brute(queries, gallery, metric, 20)) >= 0.98, (metric, factor)


def test_galleries_of_few_and_of_equal_rows(tmp_path: Path) -> None:
    for gallery in (GALLERY[:16], np.ones((40, SIZE), np.float32), np.zeros((40, 6), np.float32)):
        build([gallery], "codes", "cosine", tmp_path / "index")
        found = load(tmp_path / "index", len(gallery)).candidates(gallery[:3], 50)
        np.testing.assert_array_equal(
            np.sort(found, axis=1)[:, -len(gallery) :], [np.arange(len(gallery))] * 3
        )
    with pytest.raises(ValueError, match="15 rows"):
        build([GALLERY[:15]], "codes", "cosine", tmp_path / "index")


def test_damaged_files_are_told_by_name(stem: Path, tmp_path: Path) -> None:
    with pytest.raises(ApproximateFault, match="holds 6,000 rows, expected 6,001"):
        load(stem, ROWS + 1)
    codes, halves = (
        stem.with_name(stem.name + ending).read_bytes() for ending in approximate.suffixes("codes")
    )
    broken = bytearray(codes)
    broken[len(codes) // 2] ^= 1
    for content, rows, message in (
        (bytes(broken), halves, "checksum"),
        (codes[:-1], halves, "checksum"),
        (b"", halves, "first line"),
        (b"{}\n", halves, "first line"),
        (codes.replace(b'"format": 1', b'"format": 9', 1), halves, "format 9"),
        (codes, halves[:-2], "767,998 bytes, expected 768,000"),
    ):
        (tmp_path / "index.codes").write_bytes(content)
        (tmp_path / "index.f16").write_bytes(rows)
        with pytest.raises(ApproximateFault, match=message):
            load(tmp_path / "index", ROWS)


def test_a_build_that_fails_leaves_what_was_there(
    stem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ending in approximate.suffixes("codes"):
        (tmp_path / f"index{ending}").write_bytes(stem.with_name(stem.name + ending).read_bytes())

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(approximate, "_blocks", full)
    with pytest.raises(OSError, match="no space left"):
        build([GALLERY], "codes", "euclidean", tmp_path / "index", trained=stem)
    assert load(tmp_path / "index", ROWS).rows == ROWS
    assert {path.name for path in tmp_path.iterdir()} == {"index.codes", "index.f16"}


def test_the_choice_says_why() -> None:
    assert choose(19_732, 2_048, 8 * GIB) == (
        "exact",
        "exact search: 19,732 rows of 0.15 GiB are few enough, and fit into half of the memory",
    )
    assert choose(1_000_000, 512, 8 * GIB)[0] == "exact"
    kind, why = choose(1_000_000, 512, 3 * GIB)
    assert kind == "codes"
    assert "more than half of the memory of 3 GiB" in why
    assert choose(1_000_001, 512, 64 * GIB) == (
        "codes", "4-bit codes in inverted lists with an exact second look: more than 1,000,000 rows"
    )  # fmt: skip
    assert choose(40_000, 2_048, 2**20)[0] == "exact"
    assert choose(10, 512)[0] == "exact"


def test_without_faiss_the_message_says_what_to_install(
    stem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    approximate._faiss.cache_clear()
    try:
        with pytest.raises(approximate.MissingFaiss, match=r"pip install '\.\[search\]'"):
            load(stem, ROWS)
        with pytest.raises(approximate.MissingFaiss, match=r"pip install '\.\[search\]'"):
            build([GALLERY], "codes", "cosine", tmp_path / "index")
    finally:
        approximate._faiss.cache_clear()
    monkeypatch.setattr(approximate.importlib.util, "find_spec", lambda _: None)
    kind, why = choose(2_000_000, 512, 64 * GIB)
    assert kind == "exact"
    assert "pip install '.[search]'" in why


def test_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of codes"):
        build([GALLERY], "tree", "cosine", tmp_path / "index")
