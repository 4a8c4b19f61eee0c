"""Which folders among the bundles are kept, taken as published, and never touched."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from safetensors.numpy import save

from cadc_rec import strict_json
from cadc_rec.errors import CadcError
from cadc_rec.export.withheld import Withheld
from cadc_rec.export.write import Wanted
from cadc_rec.follow.publish import Shelf
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import manifest_of
from cadc_rec.serving.bundle.signing import signature_of

INPUTS = {"evaluate": "abc"}


def shelf(out, keep=None, key=None):
    return Shelf(out, Wanted(key=key), keep)


def bundle(folder, inputs=INPUTS, key=None):
    folder.mkdir(parents=True)
    (folder / layout.MODEL).write_text("{}")
    manifest = manifest_of(folder, "toy", inputs, {"python": "3"}, "2020-01-01T00:00:00Z")
    text = strict_json.dumps(manifest)
    (folder / layout.MANIFEST).write_text(text)
    if key is not None:
        (folder / layout.SIGNATURE).write_text(signature_of(text.encode(), key))
    return folder


@pytest.fixture
def out(tmp_path):
    """Bundles of an earlier run, and the first one of a new run, which is the current one."""
    folder = tmp_path / "bundles"
    for name in ("000000", "000003", "000004", "000004.delta", "000005", "000005.delta"):
        (folder / f"update-{name}").mkdir(parents=True)
    (folder / "current").symlink_to("update-000000")
    return folder


def test_the_current_bundle_stays_though_its_number_is_the_lowest(out):
    shelf(out, keep=2)._remove_old()
    left = {path.name for path in out.iterdir()}
    deltas = {"update-000004.delta", "update-000005.delta"}
    assert left == {"current", "update-000000", "update-000004", "update-000005", *deltas}


def test_bundles_of_later_updates_are_another_runs(out):
    with pytest.raises(CadcError, match=r"update-000005: is of a later .* a folder of its own"):
        shelf(out)._require_mine(4)
    shelf(out)._require_mine(5)


def test_a_folder_that_was_never_a_bundle_is_not_replaced(tmp_path):
    mine = tmp_path / "update-000001"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(CadcError, match="update-000001: is no bundle, and is not replaced"):
        shelf(tmp_path)._has(mine, INPUTS)


def test_a_bundle_is_taken_as_published_if_it_is_sound_and_of_the_same_inputs(tmp_path):
    made = bundle(tmp_path / "update-000001")
    assert shelf(tmp_path)._has(made, INPUTS)
    assert not shelf(tmp_path)._has(tmp_path / "update-000002", INPUTS)
    with pytest.raises(CadcError, match="update-000001: is a bundle of something else"):
        shelf(tmp_path)._has(made, {"evaluate": "other"})
    (made / layout.MODEL).write_text("damaged")
    assert not shelf(tmp_path)._has(made, INPUTS)


def test_a_bundle_is_made_anew_where_the_lists_name_other_items(tmp_path, experiment):
    (tmp_path / "block.txt").write_text("i2\n")
    made = tmp_path / "bundles" / "update-000001"
    made.mkdir(parents=True)
    pq.write_table(pa.table({"item_id": ["i1", "i2", "i3"]}), made / layout.ITEMS)
    blocks = Shelf(made.parent, Wanted(withheld=Withheld(block=tmp_path / "block.txt")))
    assert shelf(made.parent)._withholds(made, experiment())
    assert not blocks._withholds(made, experiment())
    (made / layout.WITHHELD).write_bytes(save({"rows": np.array([1])}))
    assert blocks._withholds(made, experiment())
    (tmp_path / "block.txt").write_text("i1\ni2\n")
    assert not blocks._withholds(made, experiment())


def test_lists_are_not_forgotten_at_the_next_start(tmp_path):
    made = bundle(tmp_path / "update-000001")
    (tmp_path / "current").symlink_to(made.name)
    shelf(tmp_path)
    (made / layout.WITHHELD).write_bytes(save({"rows": np.array([1])}))
    with pytest.raises(
        CadcError, match="current: leaves items out by --block, --allow or --available; give"
    ):
        shelf(tmp_path)
    (tmp_path / "none.txt").touch()
    Shelf(tmp_path, Wanted(withheld=Withheld(block=tmp_path / "none.txt")))


def test_a_bundle_is_made_anew_where_the_wanted_signature_is_missing(tmp_path, caplog):
    key, other = (ed25519.Ed25519PrivateKey.generate() for _ in range(2))
    made = bundle(tmp_path / "update-000001", key=key)
    assert shelf(tmp_path)._has(made, INPUTS)
    assert shelf(tmp_path, key=key)._has(made, INPUTS)
    assert not shelf(tmp_path, key=other)._has(made, INPUTS)
    assert not shelf(tmp_path, key=key)._has(bundle(tmp_path / "update-000002"), INPUTS)
    assert "update-000002 is not signed" in caplog.text
