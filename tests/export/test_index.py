"""Indexes find what is there, and their kind follows the size of the catalogue."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from cadc_rec.errors import CadcError

faiss = pytest.importorskip("faiss")

from cadc_rec.export import index as index_module  # noqa: E402  (needs faiss)
from cadc_rec.export import write as write_module  # noqa: E402
from cadc_rec.export.index import kind_for, write_index  # noqa: E402


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


class Watched:
    """Vectors that know how many of them were read at once."""

    def __init__(self, vectors):
        self.vectors, self.shape, self.most = vectors, vectors.shape, 0

    def __len__(self):
        return len(self.vectors)

    def __getitem__(self, rows):
        found = self.vectors[rows]
        self.most = max(self.most, len(found))
        return found


def test_vectors_are_put_in_block_by_block(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(index_module, "_BLOCK", 300)
    watched = Watched(drawn[0])
    _, index = built(tmp_path, watched, "exact")
    assert watched.most == 300
    assert np.array_equal(index.reconstruct_n(0, index.ntotal), drawn[0])


@pytest.mark.slow
def test_lists_and_codes_are_learned_from_a_sample(tmp_path, monkeypatch):
    draw = np.random.default_rng(1)
    basis = draw.normal(size=(4, 8)).astype(np.float32)
    items = draw.normal(size=(60_000, 4)).astype(np.float32) @ basis
    queries = draw.normal(size=(50, 4)).astype(np.float32) @ basis
    monkeypatch.setattr(index_module, "_BLOCK", 5_000)
    _, of_all = built(tmp_path, items, "ivf-pq")
    monkeypatch.setattr(index_module, "_PQ_SAMPLE", 40)
    watched = Watched(items)
    described, index = built(tmp_path, watched, "ivf-pq")
    assert watched.most == 40 * described["lists"] < 0.7 * len(items)
    assert index.ntotal == len(items)
    # Two bytes an item are coarse; what matters is that a sample teaches as much.
    assert recall(index, items, queries) >= 0.8 * recall(of_all, items, queries) > 0.1


def test_a_full_disk_is_an_error_of_the_system():
    with pytest.raises(OSError, match="No space left"):
        write_index(np.ones((30_000, 16), np.float32), "exact", Path("/dev/full"))


def test_vectors_of_a_bundle_have_the_bytes_of_safetensors(tmp_path, monkeypatch):
    monkeypatch.setattr(write_module, "_BLOCK", 7)
    parts = [np.random.default_rng(n).normal(size=(n, 5)).astype(np.float32) for n in (20, 0, 3)]
    write_module.write_vectors(tmp_path / "made", parts)
    assert (tmp_path / "made").read_bytes() == save({"vectors": np.concatenate(parts)})
