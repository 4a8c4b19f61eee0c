"""Ranks hash together: every file once, by one of them, and all hear of one that is damaged."""

import hashlib
import json
import threading
from pathlib import Path

import pytest

from cadc_rec.errors import CadcError
from cadc_rec.store import manifest
from cadc_rec.store.artifact import run_stage
from cadc_rec.store.group import SoloGroup, dealt, entries_together, verify_together
from cadc_rec.store.manifest import file_entry
from tests.store.test_artifact import Rank
from tests.zygote import run_ranks

SIZES = {"a": 100, "part/b": 60, "c": 50, "d": 40, "empty": 0}


@pytest.fixture
def folder(tmp_path):
    for name, size in SIZES.items():
        file = tmp_path / "files" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode() * size)
    return tmp_path / "files"


@pytest.fixture
def hashed(monkeypatch):
    """The files that were hashed."""
    found = []

    def noted(path):
        found.append(path)
        return file_entry(path)

    monkeypatch.setattr(manifest, "file_entry", noted)
    return found


def on_ranks(world, work):
    """What `work` gave each rank, or the sentence that it ended with."""
    box, meet, found = [None] * (1 + world), threading.Barrier(world), {}

    def rank(number):
        try:
            found[number] = work(Rank(number, box, meet))
        except CadcError as error:
            found[number] = str(error)

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [found[number] for number in range(world)]


def test_the_largest_file_goes_first_to_the_rank_that_has_least():
    # 100 | 60 | 50, then 40 to the rank with 50, then nothing to the one with 60
    assert [sorted(names) for names in dealt(SIZES, 3)] == [["a"], ["empty", "part/b"], ["c", "d"]]
    assert dealt({}, 2) == [[], []]
    alone = ["a", "part/b", "c", "d", "empty"]
    assert dealt(SIZES, 1) == [alone]
    spread = dealt(SIZES, 9)
    assert sorted(name for names in spread for name in names) == sorted(SIZES)
    assert max(map(len, spread)) == 1


@pytest.mark.parametrize("world", [2, 3, 7])
def test_every_file_is_hashed_once_and_all_ranks_have_all_entries(world, folder, hashed):
    entries = on_ranks(world, lambda group: entries_together(group, folder))
    files = {name: folder / name for name in SIZES}
    assert sorted(hashed) == sorted(files.values())
    wanted = {
        name: {
            "bytes": len(file.read_bytes()),
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for name, file in files.items()
    }
    assert entries == [wanted] * world
    hashed.clear()
    checked = on_ranks(
        world, lambda group: verify_together(group, folder, wanted, "it", "mend it.")
    )
    assert checked == [None] * world
    assert sorted(hashed) == sorted(files.values())


@pytest.mark.parametrize("victim", SIZES)
def test_every_rank_is_told_which_file_is_damaged(victim, folder):
    entries = entries_together(SoloGroup(), folder)
    (folder / victim).write_bytes(b"x" * max(1, entries[victim]["bytes"]))
    told = on_ranks(3, lambda group: verify_together(group, folder, entries, "it", "mend it."))
    assert told == [f"{folder / victim} changed since it was written; mend it."] * 3
    (folder / victim).unlink()
    told = on_ranks(3, lambda group: verify_together(group, folder, entries, "it", "mend it."))
    assert told == [f"{folder / victim} is missing from it; mend it."] * 3


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_of_a_stage_hash_what_it_made_and_what_it_finds_together(world, tmp_path, hashed):
    def stage(group):
        def build(draft):
            (draft.path / str(group.rank)).write_text("written by it")

        return run_stage(tmp_path, "train", {}, {}, build, group=group)

    made = on_ranks(world, stage)
    assert [file.name for file in sorted(hashed)] == [str(rank) for rank in range(world)]
    assert [each.manifest for each in made] == [made[0].manifest] * world
    assert made[0].costs["ranks"] == world
    hashed.clear()
    found = on_ranks(world, stage)
    assert sorted(hashed) == [made[0].path / str(rank) for rank in range(world)]
    assert all(each.cached and each.manifest == made[0].manifest for each in found)
    (made[0].path / "1").write_text("another content")
    file, remedy = made[0].path / "1", f"delete {made[0].path} and run again."
    told = on_ranks(world, stage)
    assert told == [f"{file} changed since it was written; {remedy}"] * world


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_processes_hash_together(world, tmp_path):
    """As processes of a job: they make, find, and refuse what is damaged."""

    def run(name):
        out = tmp_path / name
        out.mkdir()
        run_ranks(Path(__file__).with_name("group_worker.py"), [tmp_path, out], world, seconds=90)
        return [json.loads((out / str(rank)).read_text()) for rank in range(world)]

    names = [f"rank-{rank}" for rank in range(world)]
    for step in ("made", "found"):
        told = run(step)
        assert sorted(name for each in told for name in each["hashed"]) == names, step
        assert all(each["hashed"] for each in told), step  # of equal size: one each
        (file,) = (tmp_path / "train").glob("*/manifest.json")
        costs = json.loads(file.read_text())["costs"]
        assert costs["ranks"] == world
        assert costs["peak_memory_bytes"] > world * 2**25  # each has Python and torch
    (victim,) = (tmp_path / "train").glob("*/rank-1")
    victim.write_text("y" * victim.stat().st_size)
    assert {each["refused"] for each in run("damaged")} == {
        f"{victim} changed since it was written; delete {victim.parent} and run again."
    }
