"""Indexes find what is there, and their kind follows the size of the catalogue."""

import numpy as np
import pytest

from cadc_rec.errors import CadcError

faiss = pytest.importorskip("faiss")

from cadc_rec.export.index import kind_for, write_index  # noqa: E402  (needs faiss)


def built(tmp_path, vectors, kind):
    described = write_index(vectors, kind, tmp_path / "items.faiss")
    contents = np.frombuffer((tmp_path / "items.faiss").read_bytes(), np.uint8)
    return described, faiss.deserialize_index(contents)


def recall(index, vectors, queries, k=10):
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :k]
    _, found = index.search(queries, k)
    return np.mean([len(set(a) & set(b)) / k for a, b in zip(best, found, strict=True)])


@pytest.fixture(scope="module")
def drawn():
    """Items and queries of a low-rank world, as towers make them."""
    draw = np.random.default_rng(0)
    basis = draw.normal(size=(8, 16)).astype(np.float32)
    items = draw.normal(size=(10_000, 8)).astype(np.float32) @ basis
    return items, draw.normal(size=(50, 8)).astype(np.float32) @ basis


@pytest.mark.parametrize(
    ("items", "kind"),
    [(1, "exact"), (50_000, "exact"), (50_001, "hnsw"), (5_000_000, "hnsw"), (10**8, "ivf-pq")],
)
def test_the_kind_follows_the_number_of_items(items, kind):
    assert kind_for(items) == kind


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        ("exact", 1.0),
        pytest.param("hnsw", 0.98, marks=pytest.mark.slow),
        pytest.param("ivf-pq", 0.5, marks=pytest.mark.slow),
    ],
)
def test_an_index_finds_the_best_items_by_inner_product(tmp_path, drawn, kind, least):
    described, index = built(tmp_path, drawn[0], kind)
    assert described["kind"] == kind
    assert index.ntotal == 10_000
    assert recall(index, *drawn) >= least


def test_ivf_pq_says_how_many_items_it_needs(tmp_path, drawn):
    with pytest.raises(CadcError, match="at least 9,984 items"):
        write_index(drawn[0][:100], "ivf-pq", tmp_path / "items.faiss")
