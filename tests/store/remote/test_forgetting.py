"""In a store forgotten users and items are in no object that is kept, nor in a cache that looks."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.data.forgotten import KEY_FILE
from cadc_rec.errors import BusyError, CadcError
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.store.artifact import committed, open_artifact, prune_artifact, run_stage
from cadc_rec.store.pruned import is_pruned
from cadc_rec.store.remote import lease
from cadc_rec.store.remote.address import Objects
from cadc_rec.store.remote.origin import Origin
from cadc_rec.updates.forget import Request
from cadc_rec.updates.prune import holders_of, is_removed, purge
from cadc_rec.updates.update import carry_on
from tests.store.remote.conftest import names
from tests.store.remote.test_remote_work_folder import FILES, fill, make
from tests.updates.conftest import write_table
from tests.updates.test_forget import (
    ITEM,
    USER,
    experiment,
    found,
    lists,
    marked,  # noqa: F401  (a fixture)
    planted,
)


def refuses(*_):
    raise CadcError("the store refuses.")


def test_a_pruned_artifact_leaves_the_store_and_every_cache_that_looks(
    bucket, machine, objects, monkeypatch
):
    work = f"{bucket}/work"
    there = machine("b", work)
    make(machine("a", work), fill())
    copy = make(machine("b", work), fill()).path
    assert len(list(copy.rglob("*.bin"))) == len(FILES)
    here = machine("a", work)
    (made,) = committed(here, "train")

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "delete", refuses)
        with pytest.raises(CadcError, match="the store refuses"):
            prune_artifact(made, "nobody needs it")
    assert is_pruned(made)
    assert not is_removed(made)  # so that who asks again finds what is left
    prune_artifact(made, "nobody needs it")
    assert is_removed(made)
    assert names(objects, "train") == [f"train/{made.name}/manifest.json"]
    assert is_pruned(made)
    machine("b", work)
    assert [path.name for path in committed(there, "train")] == [made.name]
    assert is_pruned(copy)
    assert not list(copy.rglob("*.bin"))
    with pytest.raises(CadcError, match=r"its files were removed \(.*nobody needs it\)"):
        open_artifact(copy)
    prune_artifact(copy, "again")  # what a killed call left goes too
    # It can be made anew, and is whole again for everybody.
    again = run_stage(there, "train", {"seed": 0}, {}, fill())
    assert not again.cached
    assert not is_pruned(again.path)
    here = machine("a", work)
    assert make(here, fill()).cached


def test_what_the_store_has_not_taken_yet_is_looked_into_too(bucket, machine, monkeypatch):
    workdir = machine("a", f"{bucket}/work")

    def make_of(user):
        def fill(draft):
            for side, name in (("user", user), ("item", "i1")):
                write_table(draft.path / f"{side}s.parquet", [(name,)], (f"{side}_id",))

        with pytest.raises(CadcError, match="What was made is whole in"):
            run_stage(workdir, "prepare", {"of": user}, {}, fill)

    with monkeypatch.context() as patch:
        patch.setattr(Origin, "upload", refuses)
        make_of(USER)
        make_of("u1")
    request = Request({"user": pa.array([USER]), "item": pa.array([], pa.string())}, b"k" * 32)
    holders = holders_of(workdir, "none", [], request)
    (held,) = holders.own
    assert held.parent == workdir / ".unsent" / "prepare"
    assert pq.read_table(held / "users.parquet")["user_id"].to_pylist() == [USER]
    purge(workdir, "none", holders)
    (left,) = held.parent.iterdir()  # the other user's
    assert left != held
    assert not holders_of(workdir, "none", [], request)


@pytest.mark.slow
def test_forgetting_in_a_store(bucket, machine, objects, marked, tmp_path):  # noqa: F811
    work = f"{bucket}/work"
    e, workdir = experiment(marked), machine("a", work)
    patterns = planted(Pipeline(e, workdir).run())
    other = machine("b", work)
    assert Pipeline(e, other).found()  # has copies
    machine("a", work)

    def downloaded(name):
        """All objects of the store, as files."""
        folder = tmp_path / name
        for one in names(objects):
            (folder / one).parent.mkdir(parents=True, exist_ok=True)
            (folder / one).write_bytes(objects.get(one)[0])
        return folder

    assert {name for name, _ in found([downloaded("before")], patterns)} == set(patterns)
    # Not while another job may read what would go.
    with lease.leased(objects, "train-other") as held:
        assert held
        with pytest.raises(
            BusyError, match=r"s3://.*: another job is at work there \(train-other\)"
        ):
            carry_on(e, workdir, None, forget=lists(tmp_path), purge_holders=True)
    outcome = carry_on(e, workdir, None, forget=lists(tmp_path), purge_holders=True)
    assert {path.parent.name for path in outcome.holders.own} >= {"prepare", "evaluate"}
    assert found([downloaded("after"), workdir], patterns) == set()
    assert (tmp_path / "after" / KEY_FILE).stat().st_size == 65
    assert not (workdir / KEY_FILE).exists()

    # Another machine, which looks, knows them by the same key, and keeps no copy.
    machine("b", work)
    day = tmp_path / "day"
    fresh = [(USER, "i3", 900), ("u1", ITEM, 901), ("new", "i4", 902), ("new", "i5", 903)]
    write_table(day / "interactions.parquet", fresh, ("user_id", "item_id", "at"))
    update = carry_on(e, other, day).update
    assert update.report["day"]["of_forgotten"] == 2
    users = pq.read_table(other / update.artifacts["prepare"] / "users.parquet")
    assert users["user_id"].to_pylist()[-1] == "new"
    assert found([other], patterns) == set()
    # Without the key nothing is learned.
    objects.delete([KEY_FILE])
    write_table(day / "interactions.parquet", [("u1", "i99", 950)], ("user_id", "item_id", "at"))
    with pytest.raises(CadcError, match=r"s3://.*/work/forget.key: holds no key"):
        carry_on(e, other, day)
