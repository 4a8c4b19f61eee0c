"""Lists and popularity change everywhere every day, and a delta brings hardly anything of them."""

import hashlib
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save

from cadc_rec.config.experiment import TransitionsConfig
from cadc_rec.data.content_lists import blended, content_lists
from cadc_rec.data.counted_lists import Counting, Taken
from cadc_rec.data.dataset import Attribute
from cadc_rec.data.transition_lists import best_targets
from cadc_rec.data.transition_matrix import transition_matrix
from cadc_rec.data.user_items import UserItems
from cadc_rec.errors import CadcError
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.delta import Delta, apply_delta, write_delta
from tests.serving.bundle.test_bundle import write_manifest

USERS, ITEMS, DIM = 400, 300, 16
HOW = TransitionsConfig(window=10, normalization=0.3, form="lists", targets=60)
CONTENT = 0.35


def bundle(folder, sequences, vectors, how=HOW):
    """A bundle with lists, as an export of tables alone makes it."""
    (folder / "vectors").mkdir(parents=True)
    brands = np.random.default_rng(9).integers(1, 30, ITEMS).astype(np.int32)
    pq.write_table(pa.table({"user_id": [*range(USERS)]}), folder / layout.USERS)
    pq.write_table(pa.table({"item_id": [*range(ITEMS)], "brand": brands}), folder / layout.ITEMS)
    entry = {"name": "brand", "kind": "categorical", "size": 30}
    (folder / layout.ATTRIBUTES).write_text(json.dumps({"user": [], "item": [entry]}))
    for name, table in ((layout.USER_VECTORS, vectors[0]), (layout.ITEM_VECTORS, vectors[1])):
        (folder / name).write_bytes(save({"vectors": table}))
    lengths = [len(each) for each in sequences]
    known = UserItems(np.concatenate([[0], np.cumsum(lengths)]), np.concatenate(sequences))
    held = np.full(USERS, 2, np.uint8)
    popularity = np.bincount(known.items, minlength=ITEMS)
    arrays = {"indptr": known.indptr, "items": known.items, "popularity": popularity}
    (folder / layout.KNOWN).write_bytes(save({**arrays, "held_out": held}))
    matrix = transition_matrix(Taken.of(known, held, ITEMS), HOW)
    attribute = Attribute("brand", "categorical", 30, np.arange(ITEMS + 1), brands)
    content = content_lists([attribute], ITEMS)
    blended(best_targets(matrix, HOW.targets), content, CONTENT).save(folder / layout.LISTS)
    counted = Counting(how, CONTENT).to_json()
    (folder / layout.MODEL).write_text(json.dumps({"items": ITEMS, "counted": counted}))
    write_manifest(folder)
    return Bundle.open(folder)


def days(folder, how=HOW):
    """Two bundles. In the second two users took more; the last column of all items moved."""
    draw = np.random.default_rng(0)
    sequences = [draw.permutation(ITEMS)[:30].astype(np.int32) for _ in range(USERS)]
    vectors = [draw.standard_normal((n, DIM)).astype(np.float32) for n in (USERS, ITEMS)]
    first = bundle(folder / "first", sequences, vectors, how)
    for user in (3, 200):
        sequences[user] = np.append(sequences[user], draw.integers(0, ITEMS, 3)).astype(np.int32)
    vectors[1] = vectors[1].copy()
    vectors[1][:, -1] = draw.standard_normal(ITEMS)
    return first, bundle(folder / "second", sequences, vectors, how)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Both bundles, and the delta."""
    folder = tmp_path_factory.mktemp("lists")
    first, second = days(folder)
    return first, second, write_delta(first, second, folder / "delta")


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_lists_are_counted_by_the_reader(two, tmp_path):
    first, second, delta = two
    before, after = (each.arrays(layout.LISTS)["weights"] for each in (first, second))
    assert np.isin(after, before).mean() < 0.5  # nearly all of them moved
    patch = delta.manifest["patches"][layout.LISTS]
    assert patch["foreseen"] == "lists"
    assert patch["bytes"] < 0.01 * (second.path / layout.LISTS).stat().st_size
    apply_delta(first.path, delta, tmp_path / "next")
    assert contents(tmp_path / "next") == contents(second.path)


def test_lists_that_were_counted_otherwise_are_sent(tmp_path):
    first, second = days(tmp_path, HOW.model_copy(update={"window": 9}))
    delta = write_delta(first, second, tmp_path / "delta")
    assert "foreseen" not in delta.manifest["patches"][layout.LISTS]
    apply_delta(first.path, delta, tmp_path / "next")
    assert contents(tmp_path / "next") == contents(second.path)


@pytest.mark.parametrize("width", [DIM, DIM - 1], ids=["moved", "new"])
def test_a_column_that_moves_for_all_items_costs_that_column_alone(two, tmp_path, width):
    first, second, _ = two
    shutil.copytree(first.path, tmp_path / "narrow")
    vectors = np.ascontiguousarray(first.arrays(layout.ITEM_VECTORS)["vectors"][:, :width])
    (tmp_path / "narrow" / layout.ITEM_VECTORS).write_bytes(save({"vectors": vectors}))
    write_manifest(tmp_path / "narrow")
    first = Bundle.open(tmp_path / "narrow")
    delta = write_delta(first, second, tmp_path / "delta")
    patch = delta.manifest["patches"][layout.ITEM_VECTORS]
    assert [table["apart"] for table in patch["tables"]] == [4]
    assert patch["bytes"] < 4 * ITEMS + 200
    apply_delta(first.path, delta, tmp_path / "next")
    assert contents(tmp_path / "next") == contents(second.path)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        (layout.LISTS, "settled", -1),
        (layout.LISTS, "settled", 10**9),
        (layout.LISTS, "settled", 1),
        (layout.LISTS, "settled", "x"),
        (layout.LISTS, "foreseen", "vectors"),
        (layout.ITEM_VECTORS, "apart", 12),
        (layout.ITEM_VECTORS, "apart", 0),
        (layout.ITEM_VECTORS, "code_apart", 10**9),
        (layout.ITEM_VECTORS, "code_apart", None),
    ],
)
def test_a_delta_that_says_what_cannot_be_is_refused(two, tmp_path, file, key, value):
    first, _, delta = two
    manifest = json.loads(json.dumps(delta.manifest))
    told = manifest["patches"][file]
    (told if file == layout.LISTS else told["tables"][0])[key] = value
    with pytest.raises(CadcError, match=r"cannot be applied|gives other bytes"):
        apply_delta(first.path, Delta(delta.path, manifest), tmp_path / "next")
    assert not (tmp_path / "next").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: model.update(items=10**12),
        lambda model: model.pop("counted"),
        lambda model: model["counted"].update(transitions={"window": "x"}),
        lambda model: model.update(counted=None),
    ],
)
def test_a_model_that_says_what_cannot_be_is_refused(two, tmp_path, damage):
    """A forged bundle's model, of which manifest and delta are whole."""
    first, second, delta = two
    forged = tmp_path / "forged"
    shutil.copytree(second.path, forged)
    model = json.loads((forged / layout.MODEL).read_text())
    damage(model)
    (forged / layout.MODEL).write_text(json.dumps(model))
    write_manifest(forged)
    other = write_delta(first, Bundle.open(forged), tmp_path / "other")
    manifest = json.loads(json.dumps(other.manifest))
    manifest["patches"][layout.LISTS] = delta.manifest["patches"][layout.LISTS] | {
        "file": manifest["patches"][layout.LISTS]["file"]
    }
    patch = delta.read(delta.manifest["patches"][layout.LISTS])
    assert hashlib.sha256(patch).hexdigest() == manifest["patches"][layout.LISTS]["sha256"]
    (tmp_path / "other" / manifest["patches"][layout.LISTS]["file"]).write_bytes(patch)
    with pytest.raises(CadcError, match="cannot be applied"):
        apply_delta(first.path, Delta(tmp_path / "other", manifest), tmp_path / "next")
