"""A delta and the bundle it is of give the next bundle, byte for byte, or one sentence."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from cadc_rec.errors import CadcError
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.coded import Coder
from cadc_rec.serving.bundle.delta import Delta, apply_delta, size_of, write_delta
from cadc_rec.serving.bundle.patch import BadPatchError, apply_patch, make_patch
from cadc_rec.store.manifest import digest
from tests.serving.bundle.test_bundle import write_manifest

USERS, ITEMS, DIM = 5_000, 500, 32


@given(st.lists(st.tuples(st.binary(max_size=90), st.booleans()), max_size=8), st.binary())
@settings(max_examples=200, deadline=None)
def test_a_patch_gives_the_new_bytes_whatever_was_inserted_or_removed(pieces, first):
    old = first + b"".join(piece for piece, stays in pieces if stays)
    new = b"".join(piece for piece, _ in pieces) + first
    patch = make_patch(old, new)
    assert apply_patch(old, patch, len(new)) == new


def test_rows_that_stay_cost_nothing_where_others_come_between_them():
    draw = np.random.default_rng(0)
    old = draw.standard_normal((10_000, DIM)).astype(np.float32)
    fresh = draw.standard_normal((100, DIM)).astype(np.float32)
    new = np.insert(old, np.sort(draw.integers(0, len(old), 100)), fresh, axis=0)
    patch = make_patch(old.tobytes(), new.tobytes())
    assert apply_patch(old.tobytes(), patch, new.nbytes) == new.tobytes()
    assert len(patch) < 1.3 * fresh.nbytes


@given(st.binary(max_size=200), st.integers(0, 300))
@settings(max_examples=200, deadline=None)
def test_bytes_that_are_no_patch_are_refused(noise, place):
    old = bytes(range(256)) * 4
    patch = make_patch(old, old[100:] + b"end")
    damaged = patch[:place] + noise + patch[place + len(noise) :]
    try:
        found = apply_patch(old, damaged, len(old) - 97)
    except BadPatchError:
        return
    assert len(found) == len(old) - 97


def bundle(folder, users, items, vectors, known):
    """A bundle of these users and items."""
    (folder / "vectors").mkdir(parents=True)
    (folder / layout.MODEL).write_text(json.dumps({"items": len(items)}))
    pq.write_table(pa.table({"user_id": users}), folder / layout.USERS)
    pq.write_table(pa.table({"item_id": items}), folder / layout.ITEMS)
    (folder / layout.USER_VECTORS).write_bytes(save({"vectors": vectors[0]}))
    (folder / layout.ITEM_VECTORS).write_bytes(save({"vectors": vectors[1]}))
    (folder / "index").mkdir()
    (folder / layout.INDEX).write_bytes(b"a header of 45 bytes".ljust(45) + vectors[1].tobytes())
    indptr = np.concatenate([[0], np.cumsum([len(one) for one in known])])
    arrays = {"indptr": indptr, "items": np.concatenate(known).astype(np.int32)}
    (folder / layout.KNOWN).write_bytes(save(arrays))
    write_manifest(folder)
    return Bundle.open(folder)


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """Two bundles: in the second 50 users changed, 10 users and an item are new, one is gone."""
    folder, draw = tmp_path_factory.mktemp("days"), np.random.default_rng(1)
    users = [f"u{n}" for n in range(USERS)]
    known = [draw.integers(0, ITEMS, 20) for _ in users]
    vectors = [draw.standard_normal((n, DIM)).astype(np.float32) for n in (USERS, ITEMS)]
    first = bundle(folder / "first", users, [*range(ITEMS)], vectors, known)
    for user in draw.choice(USERS, 50, replace=False):
        vectors[0][user] += 1
        known[user] = np.append(known[user], draw.integers(0, ITEMS, 3))
    more = draw.standard_normal((10, DIM)).astype(np.float32)
    vectors = [np.concatenate([vectors[0], more]), np.concatenate([vectors[1], more[:1]])]
    users = ["gone", *users[1:], *(f"n{n}" for n in range(10))]
    known += [draw.integers(0, ITEMS, 3) for _ in range(10)]
    second = bundle(folder / "second", users, [*range(ITEMS + 1)], vectors, known)
    write_delta(first, second, folder / "delta")
    return folder


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_it_gives_the_very_bytes_of_the_whole_bundle(days, tmp_path):
    made = apply_delta(days / "first", Delta.open(days / "delta"), tmp_path / "next")
    assert contents(tmp_path / "next") == contents(days / "second")
    assert made.fingerprint == Bundle.open(days / "second").fingerprint


def test_it_says_what_changed_and_is_small(days):
    delta = Delta.open(days / "delta")
    changes = delta.manifest["changes"]
    assert changes["users"] == {
        "new": 11, "removed": 1, "vectors_changed": 50, "rows": USERS + 10
    }  # fmt: skip
    assert changes["items"] == {"new": 1, "removed": 0, "vectors_changed": 0, "rows": ITEMS + 1}
    assert size_of(days / "delta") < 0.05 * size_of(days / "second")


def test_vectors_that_are_there_twice_are_sent_once(days, tmp_path):
    first, second = (Bundle.open(days / name) for name in ("first", "second"))
    moved = tmp_path / "moved"
    shutil.copytree(second.path, moved)
    vectors = second.arrays(layout.ITEM_VECTORS)["vectors"] * 2
    (moved / layout.ITEM_VECTORS).write_bytes(save({"vectors": vectors}))
    (moved / layout.INDEX).write_bytes(b"a header of 45 bytes".ljust(45) + vectors.tobytes())
    write_manifest(moved)
    delta = write_delta(first, Bundle.open(moved), tmp_path / "delta")
    assert delta.manifest["patches"][layout.INDEX]["bytes"] < 400
    apply_delta(first.path, delta, tmp_path / "next")
    assert contents(tmp_path / "next") == contents(moved)


def test_it_tells_nothing_of_the_vector_of_who_had_the_row_before(days, tmp_path):
    draw, patches = np.random.default_rng(3), []
    second = tmp_path / "second"
    shutil.copytree(days / "second", second)
    vectors = Bundle.open(second).arrays(layout.USER_VECTORS)["vectors"].copy()
    vectors[0] = draw.standard_normal(DIM)
    (second / layout.USER_VECTORS).write_bytes(save({"vectors": vectors}))
    write_manifest(second)
    for case in ("one", "other"):
        shutil.copytree(days / "first", tmp_path / case)
        before = Bundle.open(tmp_path / case).arrays(layout.USER_VECTORS)["vectors"].copy()
        before[0] = draw.standard_normal(DIM)
        (tmp_path / case / layout.USER_VECTORS).write_bytes(save({"vectors": before}))
        write_manifest(tmp_path / case)
        first = Bundle.open(tmp_path / case)
        delta = write_delta(first, Bundle.open(second), tmp_path / f"{case}-delta")
        apply_delta(first.path, delta, tmp_path / f"{case}-next")
        assert contents(tmp_path / f"{case}-next") == contents(second)
        patches.append(delta.read(delta.manifest["patches"][layout.USER_VECTORS]))
    assert patches[0] == patches[1]


def test_in_its_place_and_a_second_time(days, tmp_path):
    here = tmp_path / "here"
    shutil.copytree(days / "first", here)
    link = tmp_path / "link"
    link.symlink_to(here)
    for _ in range(2):
        apply_delta(link, Delta.open(days / "delta"))
        assert contents(here) == contents(days / "second")
    assert link.is_symlink()


def test_after_a_kill_between_the_two_renames_the_same_command_works(days, tmp_path, monkeypatch):
    here, rename = tmp_path / "here", Path.rename
    shutil.copytree(days / "first", here)

    def killed(path, target):
        if Path(target) == here:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            apply_delta(here, Delta.open(days / "delta"))
    assert not here.exists()
    apply_delta(here, Delta.open(days / "delta"))
    assert contents(here) == contents(days / "second")


@pytest.mark.parametrize("name", ["base", "target", "carried", "patches"])
@pytest.mark.parametrize("value", [None, 7, {"a": 1}], ids=["without", "number", "other"])
def test_a_sealed_manifest_of_another_shape_is_none(days, tmp_path, name, value):
    delta = tmp_path / "delta"
    shutil.copytree(days / "delta", delta)
    manifest = json.loads((delta / "delta.json").read_text())
    del manifest["digest"], manifest[name]
    if value is not None:
        manifest[name] = value
    (delta / "delta.json").write_text(json.dumps(manifest | {"digest": digest(manifest)}))
    with pytest.raises(CadcError, match="is not the manifest of a delta"):
        Delta.open(delta)


def test_its_bundle_must_be_signed_where_that_is_asked(days, tmp_path):
    keys = [ed25519.Ed25519PrivateKey.generate() for _ in range(2)]
    signed = tmp_path / "signed"
    shutil.copytree(days / "second", signed)
    write_manifest(signed, keys[0])
    delta = write_delta(Bundle.open(days / "first"), Bundle.open(signed), tmp_path / "delta")
    with pytest.raises(CadcError, match="the signature is not the key owner's"):
        apply_delta(days / "first", delta, tmp_path / "next", keys[1].public_key())
    apply_delta(days / "first", delta, tmp_path / "next", keys[0].public_key())
    assert contents(tmp_path / "next") == contents(signed)


def test_of_another_bundle_it_is_refused(days, tmp_path):
    write_delta(Bundle.open(days / "second"), Bundle.open(days / "first"), tmp_path / "back")
    with pytest.raises(CadcError, match=r"is of the bundle toy .* apply the deltas in their order"):
        apply_delta(days / "first", Delta.open(tmp_path / "back"), tmp_path / "next")
    assert not (tmp_path / "next").exists()


@pytest.mark.parametrize("what", ["delta.json", "manifest.json", "patch"])
def test_a_changed_delta_is_refused_and_the_bundle_stays(days, tmp_path, what):
    here, delta = tmp_path / "here", tmp_path / "delta"
    shutil.copytree(days / "first", here)
    shutil.copytree(days / "delta", delta)
    file = next((delta / "patches").iterdir()) if what == "patch" else delta / what
    text = bytearray(file.read_bytes())
    text[len(text) // 2] ^= 1
    file.write_bytes(text)
    with pytest.raises(CadcError, match=r"changed since|not the manifest"):
        apply_delta(here, Delta.open(delta))
    assert contents(here) == contents(days / "first")


def test_a_name_that_leaves_the_folder_is_refused(days, tmp_path):
    delta = tmp_path / "delta"
    shutil.copytree(days / "delta", delta)
    manifest = json.loads((delta / "delta.json").read_text())
    manifest["carried"]["../../escaped"] = manifest["carried"]["manifest.json"]
    forged = Delta(delta, manifest)
    with pytest.raises(CadcError, match="carries"):
        apply_delta(days / "first", forged, tmp_path / "next")
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("at", 10**15), ("rows", 10**12), ("width", 0), ("code", -1), ("name", None), ("at", "x")],
)
def test_tables_that_cannot_be_there_are_refused_before_they_fill_the_memory(days, key, value):
    manifest = json.loads((days / "delta" / "delta.json").read_text())
    (told,) = [one for one in manifest["patches"].values() if "tables" in one]
    told["tables"][0][key] = value
    with pytest.raises(CadcError, match=r"cannot be applied|gives other bytes"):
        apply_delta(days / "first", Delta(days / "delta", manifest), days / f"next-{key}")


def test_a_patch_that_inflates_to_more_than_its_file_can_need_is_refused(days, tmp_path):
    delta = tmp_path / "delta"
    shutil.copytree(days / "delta", delta)
    manifest = json.loads((delta / "delta.json").read_text())
    ((name, told),) = [one for one in manifest["patches"].items() if "tables" in one[1]]
    coder = Coder(Bundle.open(days / "first"), Bundle.open(days / "second"))
    known = coder._old(name) + coder._known(name)
    sound = apply_patch(known, (delta / told["file"]).read_bytes(), told["payload"])
    codes = len(sound) - sum(table["code"] for table in told["tables"])
    # All that the file is made of, and between it what nothing reads.
    more = bytes(6 * (days / "second" / name).stat().st_size)
    told["payload"] = len(sound) + len(more)
    forged = make_patch(known, sound[:codes] + more + sound[codes:])
    assert len(forged) < len(more) / 10
    (delta / told["file"]).write_bytes(forged)
    told |= {"bytes": len(forged), "sha256": hashlib.sha256(forged).hexdigest()}
    with pytest.raises(CadcError, match="cannot be applied"):
        apply_delta(days / "first", Delta(delta, manifest), tmp_path / "next")


def test_a_folder_that_is_no_delta_is_named(tmp_path):
    with pytest.raises(CadcError, match=r"is not a delta: it has no delta\.json"):
        Delta.open(tmp_path)
