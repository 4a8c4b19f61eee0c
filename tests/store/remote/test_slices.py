"""A file that two nodes wrote in slices: slices in the store, one file where it is opened."""

import hashlib
import shutil
import threading

import pytest

from cadc_rec.distributed.row_files import slice_path
from cadc_rec.errors import CadcError
from cadc_rec.store.artifact import open_artifact, run_stage
from cadc_rec.store.remote import origin, slices
from tests.store.remote.conftest import bytes_of, names
from tests.store.remote.test_nodes import together

PARTS = [b"head" * 5, b"", bytes(range(256)) * 3]  # rank 0 wrote the first, rank 1 the others
WHOLE, ALL = b"".join(PARTS), tuple(range(len(PARTS)))


@pytest.fixture
def workdirs(bucket, machine):
    return [machine(name, f"{bucket}/work") for name in ("a", "b")]


def made(workdirs, written=ALL, sliced=True):
    """The artifact on each node, or an error's text; the ranks write these slices."""

    def work(rank, group):
        def build(draft):
            assert draft.sliced == sliced
            for number in written:
                if rank == min(number, 1):
                    file = slice_path(draft.path / "weight.bin", number, len(PARTS))
                    file.write_bytes(PARTS[number])
            if rank == 0:
                (draft.path / "metrics.json").write_text("{}")

        try:
            return run_stage(workdirs[rank], "pretrain", {}, {}, build, group=group)
        except CadcError:
            group.wait.abort()  # a process that fails leaves the others
            raise
        except threading.BrokenBarrierError:
            return None

    return together(work)


def test_each_node_has_the_file_and_the_store_its_slices(workdirs, objects, monkeypatch):
    monkeypatch.setattr(slices, "_PIECE", 7)
    both = made(workdirs)
    for artifact in both.values():
        assert bytes_of(artifact.path) == {"weight.bin": WHOLE, "metrics.json": b"{}"}
    entry = both[0].manifest["files"]["weight.bin"]
    assert entry["bytes"] == len(WHOLE)
    assert entry["sha256"] == hashlib.sha256(WHOLE).hexdigest()
    assert [each["bytes"] for each in entry["slices"]] == [len(part) for part in PARTS]
    prefix = f"pretrain/{both[0].path.name}"
    wanted = {
        f"{prefix}/{hashlib.sha256(part).hexdigest()}/weight.bin.slice-{n:05}-of-00003": part
        for n, part in enumerate(PARTS)
    }
    found = {name for name in names(objects) if "weight" in name}
    assert found == set(wanted)
    assert {name: objects.get(name)[0] for name in wanted} == wanted


def test_the_fingerprint_is_that_of_one_process(workdirs, tmp_path):
    def build(draft):
        assert not draft.sliced
        (draft.path / "weight.bin").write_bytes(WHOLE)
        (draft.path / "metrics.json").write_text("{}")

    alone = run_stage(tmp_path / "local", "pretrain", {}, {}, build)
    assert made(workdirs)[0].fingerprint == alone.fingerprint


def test_a_node_that_lost_its_disk_brings_the_file_and_a_sweep_leaves_slices(
    bucket, workdirs, machine, objects, monkeypatch
):
    made(workdirs)
    shutil.rmtree(workdirs[1].parent)
    workdirs[1] = machine("b", f"{bucket}/work")
    objects.put("pretrain/other/left", b"of a killed job")
    monkeypatch.setattr(origin, "SWEEP_SECONDS", -1.0)
    origin.origin_of(workdirs[1]).sweep("pretrain")
    assert not any("left" in name for name in names(objects))
    found = made(workdirs)
    assert found[1].cached
    assert (found[1].path / "weight.bin").read_bytes() == WHOLE


def test_a_slice_that_is_gone_from_the_store_is_named(bucket, workdirs, machine, objects):
    folder = made(workdirs)[1].path
    (name,) = (name for name in names(objects) if "slice-00002" in name)
    objects.delete([name])
    shutil.rmtree(folder)
    with pytest.raises(CadcError, match=r"slice-00002-of-00003: is missing from the store; delete"):
        open_artifact(folder)


def test_a_slice_with_other_bytes_is_refused(workdirs, objects):
    folder = made(workdirs)[1].path
    (name,) = (name for name in names(objects) if "slice-00002" in name)
    objects.put(name, b"\1" * len(PARTS[2]))
    shutil.rmtree(folder)
    with pytest.raises(CadcError, match="does not have the bytes that its manifest names"):
        open_artifact(folder)


def test_slices_that_the_store_lost_before_it_was_sealed_are_cut_out_of_the_file(
    workdirs, objects, monkeypatch
):
    """As they are where the store stopped answering, and another command sends what is here."""
    seal, lost = origin.Origin.seal, []

    def first_fails(self, *arguments):
        if not lost:
            lost.append(True)
            raise CadcError("the store stopped answering.")
        return seal(self, *arguments)

    monkeypatch.setattr(origin.Origin, "seal", first_fails)
    assert "the store stopped answering. What was made is whole in" in made(workdirs)[0]
    objects.delete([name for name in names(objects) if "slice" in name])

    def never(draft):
        raise AssertionError("it is made already")

    found = run_stage(workdirs[0], "pretrain", {}, {}, never)
    assert found.cached
    shutil.rmtree(found.path)
    assert (open_artifact(found.path).path / "weight.bin").read_bytes() == WHOLE


def test_a_slice_that_no_rank_wrote_is_an_error(workdirs):
    said = made(workdirs, written=(0, 2))[0]
    assert "weight.bin: 1 of its 3 slices were written by no rank; run again." in said


def test_a_node_whose_ranks_are_not_numbered_from_0_is_told(workdirs, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")  # of rank 1, whose node has no other; rank 0 reads none
    said = made(workdirs, sliced=False)[1]
    assert f"{workdirs[1]}/.tmp/pretrain-" in said
    assert "see that the ranks of every node are numbered from LOCAL_RANK 0" in said


def test_ranks_of_one_folder_write_one_file(bucket, machine):
    workdir = machine("a", f"{bucket}/work")

    def work(rank, group):
        def build(draft):
            assert not draft.sliced

        return run_stage(workdir, "select", {}, {}, build, group=group)

    assert len({artifact.fingerprint for artifact in together(work).values()}) == 1
