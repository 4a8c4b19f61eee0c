"""The cache keeps its bound: all that lies in it counts, and only what the store has goes."""

import pytest

from cadc_rec.errors import CadcError
from cadc_rec.store.artifact import run_stage
from cadc_rec.store.checkpoints.store import CheckpointStore, open_checkpoint
from cadc_rec.store.manifest import file_entry
from cadc_rec.store.remote import cache, origin
from cadc_rec.store.remote.trees import local_tree
from tests.store.remote.test_nodes import Alone

KIB = 1024


@pytest.fixture
def bound(monkeypatch):
    """Set the bound, in KiB; what bookkeeping takes is far less than one artifact here."""
    return lambda kib: monkeypatch.setenv(cache.BOUND_VARIABLE, str(kib * KIB / 2**30))


def ends():
    """The process that used everything ends."""
    for lock in cache._held.values():
        lock.close()
    cache._held.clear()


def save(store, step, kib=50):
    store.draft(step).mkdir(parents=True)
    (store.draft(step) / "one.bin").write_bytes(bytes(kib * KIB))
    return store.commit(step, {"one.bin": file_entry(store.draft(step) / "one.bin")}, {"score": 0})


def test_checkpoints_that_were_sent_go_for_space_and_come_back(bucket, machine, bound):
    work = machine("a", f"{bucket}/work")
    store = CheckpointStore(work, "abc")
    with store.owned():
        made = [save(store, step) for step in (1, 2)]
    bound(70)
    cache.keep_bound()
    assert all(checkpoint.path.exists() for checkpoint in made)  # this process may resume from them
    ends()
    cache.keep_bound()
    assert [checkpoint.path.exists() for checkpoint in made] == [False, True]
    assert store.folders() == [made[1].path, made[0].path]
    assert open_checkpoint(made[0].path, Alone()).step == 1
    assert (made[0].path / "one.bin").stat().st_size == 50 * KIB


def test_a_checkpoint_that_could_not_be_sent_stays(bucket, machine, bound, monkeypatch):
    def refuse(*_, **__):
        raise CadcError("cannot be written")

    work = machine("a", f"{bucket}/work")
    store = CheckpointStore(work, "abc")
    with store.owned():
        first = save(store, 1)
        store.remove_all()
        monkeypatch.setattr(origin.Origin, "seal", refuse)
        with pytest.raises(CadcError, match="cannot be written"):
            save(store, 1)  # of the same name as one that was sent
    ends()
    bound(20)
    cache.keep_bound()
    assert (first.path / "one.bin").exists()


def test_copies_of_raw_data_count_and_go(bucket, machine, bound, objects):
    machine("a", f"{bucket}/work")
    objects.put("raw/ratings.csv", bytes(50 * KIB))
    copy = local_tree(f"{bucket}/work/raw")
    bound(70)
    work = machine("a", f"{bucket}/work")

    def fill(draft):
        (draft.path / "model.bin").write_bytes(bytes(50 * KIB))

    made = run_stage(work, "train", {}, {}, fill)
    assert copy.exists()
    ends()
    cache.hold(made.path)
    cache.keep_bound()
    assert not copy.exists()
    assert made.path.exists()
    assert (local_tree(f"{bucket}/work/raw") / "ratings.csv").stat().st_size == 50 * KIB


def test_what_is_not_sent_counts_and_is_told_of(bucket, machine, bound, monkeypatch, caplog):
    def refuse(*_, **__):
        raise CadcError(f"{bucket}/work: cannot be written.")

    work = machine("a", f"{bucket}/work")

    def fill(draft):
        (draft.path / "model.bin").write_bytes(bytes(50 * KIB))

    sent = run_stage(work, "train", {"seed": 0}, {}, fill)
    monkeypatch.setattr(origin.Origin, "upload", refuse)
    with pytest.raises(CadcError, match="What was made is whole in"):
        run_stage(work, "train", {"seed": 1}, {}, fill)
    ends()
    bound(70)
    cache.keep_bound()
    assert not sent.path.exists()
    bound(40)
    caplog.clear()
    cache.keep_bound()
    (said,) = caplog.messages
    assert "that are in use or not sent yet (0.0 GiB), above its bound of 0.0 GiB; raise" in said
    assert len(list((work / ".unsent").rglob("model.bin"))) == 1
