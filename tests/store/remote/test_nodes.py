"""Nodes that see nothing of each other but the store: one artifact of all, on each of them."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cadc_rec.errors import CadcError
from cadc_rec.pipeline.job import require_one_folder, require_one_version
from cadc_rec.store.artifact import run_stage
from cadc_rec.store.checkpoints.store import CheckpointStore, open_checkpoint
from cadc_rec.store.manifest import file_entry
from cadc_rec.store.remote.trees import local_tree
from tests.conftest import TINY
from tests.store.remote.conftest import bytes_of, names

ROOT = Path(__file__).parents[3]


class Ranks:
    """Two ranks as threads of this process, each the first of its node."""

    world_size = 2

    def __init__(self):
        self.wait, self.values = threading.Barrier(2, timeout=60), {}

    def of(self, rank):
        view = Ranks.__new__(Ranks)
        view.__dict__ = {**self.__dict__, "rank": rank}
        return view

    def all_gather(self, value):
        self.values[self.rank] = value
        self.wait.wait()
        gathered = [self.values[0], self.values[1]]
        self.wait.wait()
        return gathered

    def broadcast(self, value):
        return self.all_gather(value)[0]

    def barrier(self):
        self.wait.wait()

    def together(self, work=None):
        result = work() if work is not None else None
        self.wait.wait()
        return result


class Alone:
    """One rank."""

    rank, world_size = 0, 1

    def broadcast(self, value):
        return value

    def all_gather(self, value):
        return [value]

    def together(self, work=None):
        return work() if work is not None else None


def together(work):
    """What each rank's call of `work(rank, its ranks)` gave."""
    ranks, results = Ranks(), {}

    def call(rank):
        try:
            results[rank] = work(rank, ranks.of(rank))
        except CadcError as error:
            results[rank] = str(error)

    threads = [threading.Thread(target=call, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_an_artifact_has_the_files_that_each_node_wrote_and_each_node_has_them_all(
    bucket, machine, objects
):
    workdirs = [machine(name, f"{bucket}/work") for name in ("a", "b")]

    def work(rank, group):
        def build(draft):
            (draft.path / f"shard-{rank}.bin").write_bytes(bytes([rank]) * 100)

        return run_stage(workdirs[rank], "select", {}, {}, build, group=group)

    made = together(work)
    wanted = {"shard-0.bin": b"\0" * 100, "shard-1.bin": b"\1" * 100}
    assert bytes_of(made[0].path) == bytes_of(made[1].path) == wanted
    assert made[0].path != made[1].path
    assert made[0].manifest == made[1].manifest
    assert not any(f.is_dir() for workdir in workdirs for f in (workdir / ".tmp").iterdir())
    shutil.rmtree(workdirs[1].parent)  # that node loses its disk
    workdirs[1] = machine("b", f"{bucket}/work")
    found = together(work)
    assert found[0].cached
    assert found[1].cached
    assert bytes_of(found[1].path) == wanted


def test_ranks_with_other_addresses_are_named(bucket, machine):
    workdirs = [machine("a", f"{bucket}/work"), machine("b", f"{bucket}/other")]
    said = together(lambda rank, ranks: require_one_folder(workdirs[rank], ranks))
    assert said[0] == said[1]
    assert said[0].startswith(f"{bucket}/work: rank 0 keeps its results there and rank 1 does not")


def test_a_rank_with_other_versions_is_named_with_its_host():
    here = {"python": "3.11.4", "torch": "2.13.0", "numpy": "2.4.0"}

    def said(**other):
        of_rank = ({**here, "python": "3.11.9"}, {**here, **other})
        return together(lambda rank, ranks: require_one_version(ranks, of_rank[rank]))

    assert said() == {0: None, 1: None}  # Python's last number is no matter
    first, second = said(torch="2.12.1").values()
    assert first == second
    assert first == (
        f"rank 1 (host {socket.gethostname()}): torch is 2.12.1 there and 2.13.0 elsewhere; "
        "install the same on all nodes."
    )
    assert "numpy is none there" in said(numpy="none")[0]
    assert "python is 3.12 there" in said(python="3.12.1")[1]


def test_a_checkpoint_may_be_named_by_a_short_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "work" / "checkpoints" / "abc"
    store = CheckpointStore(tmp_path / "work", "abc")
    with store.owned():
        store.draft(9).mkdir()
        (store.draft(9) / "one.bin").write_bytes(b"1")
        store.commit(9, {"one.bin": file_entry(store.draft(9) / "one.bin")}, {"score": 0.0})
    made.rename("ck")
    assert open_checkpoint(Path("ck/000001-step-9"), Alone()).step == 9


def test_a_checkpoint_of_a_lost_machine_is_found_by_another(bucket, machine, objects):
    def save(store, step):
        store.draft(step).mkdir(parents=True)
        (store.draft(step) / "rank-00000-000.safetensors").write_bytes(bytes([step]) * 50)
        files = {f.name: file_entry(f) for f in store.draft(step).iterdir()}
        return store.commit(step, files, {"score": 0.5})

    store = CheckpointStore(machine("a", f"{bucket}/work"), "abc")
    with store.owned():
        save(store, 1)
        save(store, 2)
        store.keep(1, best=False)
    left = CheckpointStore(machine("b", f"{bucket}/work"), "abc")
    (folder,) = left.folders()
    found = open_checkpoint(folder, Alone())
    assert found.step == 2
    assert (folder / "rank-00000-000.safetensors").read_bytes() == b"\2" * 50
    left.clear()
    assert names(objects) == []


def committed(store, step, score):
    store.draft(step).mkdir(parents=True)
    (store.draft(step) / "one.bin").write_bytes(bytes([step]))
    files = {"one.bin": file_entry(store.draft(step) / "one.bin")}
    return store.commit(step, files, {"score": score}).path


def test_checkpoints_that_are_removed_leave_no_open_file_and_no_lock(bucket, machine):
    workdir = machine("a", f"{bucket}/work")
    store = CheckpointStore(workdir, "abc")

    def held():
        return [
            link
            for fd in Path("/proc/self/fd").iterdir()
            if ".used" in (link := os.path.realpath(fd)) and str(workdir) in link
        ]

    with store.owned():
        for step in range(1, 6):
            committed(store, step, 0.0)
            store.keep(1, best=False)
    assert len(held()) == 1
    assert len(list((workdir / ".used").iterdir())) == 1


def test_the_best_checkpoint_stays_in_the_store_while_its_copy_goes_for_space(
    bucket, machine, objects, monkeypatch
):
    store = CheckpointStore(machine("a", f"{bucket}/work"), "abc")
    with store.owned():
        best = committed(store, 1, 0.9)
        committed(store, 2, 0.1)
        listed = store.folders()
        shutil.rmtree(best)
        monkeypatch.setattr(store, "folders", lambda: listed)
        store.keep(1, best=True)
    assert any(best.name in name for name in names(objects))


def test_raw_files_below_an_address_are_copied_once(bucket, machine, objects):
    objects.put("raw/ratings.csv", b"user,item\n")
    objects.put("raw/day/one.csv", b"1")
    machine("a", f"{bucket}/work")
    folder = local_tree(Path(f"{bucket}/work/raw"))
    assert (folder / "ratings.csv").read_bytes() == b"user,item\n"
    before = (folder / "day" / "one.csv").stat().st_ino
    objects.put("raw/ratings.csv", b"user,post\n")
    assert local_tree(f"{bucket}/work/raw") == folder
    assert (folder / "ratings.csv").read_bytes() == b"user,post\n"
    assert (folder / "day" / "one.csv").stat().st_ino == before
    (folder / "day" / "two.csv").write_bytes(b"2")  # of a first download that was killed
    objects.delete(["raw/day/one.csv"])
    objects.put("raw/empty", b"")
    local_tree(f"{bucket}/work/raw")
    assert sorted(f.name for f in folder.rglob("*")) == [".versions.json", "empty", "ratings.csv"]
    objects.put("raw/ratings.csv/part", b"1")
    with pytest.raises(CadcError, match=r"ratings\.csv: is an object, and a folder of"):
        local_tree(f"{bucket}/work/raw")
    with pytest.raises(CadcError, match="holds nothing"):
        local_tree(f"{bucket}/work/nothing")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.distributed
def test_two_nodes_without_a_shared_disk_give_the_artifacts_of_one(tmp_path, bucket, environ):
    (tmp_path / "tiny.toml").write_text(TINY)
    threads = {"OMP_WAIT_POLICY": "passive", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    everything = {**os.environ, **environ, **threads, "PYTHONPATH": str(ROOT)}
    launcher = [sys.executable, "-m", "torch.distributed.run"]
    here = ["-m", "cadc_rec"]

    def node(name, nodes, command, workdir):
        for folder in ("cwd", "tmp"):
            (tmp_path / name / folder).mkdir(parents=True, exist_ok=True)
        of_node = {"CADC_REC_CACHE": f"{tmp_path / name}/cache", "TMPDIR": f"{tmp_path / name}/tmp"}
        return subprocess.Popen(
            [*launcher, *nodes, *here, command, tmp_path / "tiny.toml", "--workdir", workdir],
            cwd=tmp_path / name / "cwd",
            env=everything | of_node,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(*started):
        said = [process.communicate(timeout=600)[1] for process in started]
        assert [process.returncode for process in started] == [0] * len(started), said

    def both(command, port):
        meet = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", f"--rdzv-id={command}"]
        nodes = ["--nnodes=2", "--nproc-per-node=1", *meet]
        end(*(node(name, nodes, command, f"{bucket}/work") for name in ("a", "b")))

    both("train", 29613)
    shutil.rmtree(tmp_path / "b")  # loses its disk between two stages
    both("evaluate", 29614)
    alone = ["--standalone", "--nproc-per-node=2"]
    for command in ("train", "evaluate"):
        end(node("one", alone, command, str(tmp_path / "local")))

    def artifacts(workdir):
        return {
            f"{stage}/{name}": data
            for stage in ("prepare", "pretrain", "select", "train", "evaluate")
            for name, data in bytes_of(workdir / stage).items()
        }

    wanted = artifacts(tmp_path / "local")
    assert len(wanted) > 15
    (first,) = (tmp_path / "a" / "cache").iterdir()
    (second,) = (tmp_path / "b" / "cache").iterdir()
    assert artifacts(first) == wanted
    assert artifacts(second).items() <= wanted.items()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_in_a_store_has_the_bytes_of_a_local_one(tmp_path, bucket, environ, tiny, spawn):
    def run(workdir):
        process = spawn("run", tiny, "--workdir", workdir, "--cache", tmp_path / "cache", **environ)
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said

    run(f"{bucket}/work")
    run(tmp_path / "local")
    (cached,) = (tmp_path / "cache").iterdir()
    stages = ("prepare/", "pretrain/", "select/", "train/", "evaluate/")
    local = bytes_of(tmp_path / "local").items()
    wanted = {name: data for name, data in local if name.startswith(stages)}
    assert len(wanted) > 15
    assert {n: d for n, d in bytes_of(cached).items() if n.startswith(stages)} == wanted
