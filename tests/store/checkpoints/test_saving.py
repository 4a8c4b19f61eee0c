"""How a checkpoint comes to be whole, when the next one is due, and what a failed one costs."""

import itertools
import logging

import numpy as np
import pytest
import torch

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.fused_state import regrouped
from cadc_rec.distributed.processes import processes
from cadc_rec.errors import CadcError
from cadc_rec.store.checkpoints.cadence import Cadence
from cadc_rec.store.checkpoints.files import load_tensors, saved_sizes
from cadc_rec.store.checkpoints.parts import Parts
from cadc_rec.store.checkpoints.saver import Saver
from cadc_rec.store.checkpoints.store import CheckpointStore, newest_whole, open_checkpoint
from cadc_rec.store.manifest import file_entry

BODY = {"score": 0.5}


@pytest.fixture
def alone():
    with processes(ComputeConfig(device="cpu", threads=1)) as joined:
        yield joined


@pytest.fixture
def saver(alone, tmp_path):
    """A saver that writes while this goes on, and its store."""
    store = CheckpointStore(tmp_path, "training")
    with store.owned():
        yield Saver(store, alone.another_group(60), True, keep_last=2, keep_best=False)


def no_refusal(_):
    return None


def whole(folder, alone, tensors):
    """What a checkpoint holds, read into fresh memory."""
    fresh = {name: torch.full_like(tensor, -1) for name, tensor in tensors.items()}
    assert saved_sizes(folder) == {name: tuple(t.shape) for name, t in tensors.items()}
    load_tensors(folder, {name: Parts.whole(t) for name, t in fresh.items()}, alone.group)
    return fresh


def test_what_is_saved_is_what_stood_there_when_it_was_asked_for(saver, alone):
    """The live tensors go on changing while the copy is being written."""
    live = {
        "table": torch.randn(300, 7),
        "scalar": torch.tensor(3.5),
        "none": torch.zeros(0, 4),
        "bytes": torch.arange(9, dtype=torch.uint8),
        "half": torch.randn(5, 3).to(torch.bfloat16),
        "flat": torch.randn(8)[::2],
    }
    then = {name: tensor.clone() for name, tensor in live.items()}
    saver.save(4, {name: Parts.whole(tensor) for name, tensor in live.items()}, BODY)
    for tensor in live.values():
        tensor.add_(1)
    saver.wait()
    found = newest_whole(saver.store, alone, no_refusal)
    assert found.step == 4
    for name, tensor in whole(found.path, alone, then).items():
        assert torch.equal(tensor, then[name]), name


def test_parts_cut_otherwise_are_put_together(saver, alone):
    table = torch.arange(48.0).view(6, 8)
    saver.save(1, {"t": Parts((6, 8), {(0, 0): table[:, :4], (0, 4): table[:, 4:]})}, BODY)
    saver.wait()
    folder = newest_whole(saver.store, alone, no_refusal).path
    parts = {(0, 0): torch.zeros(2, 6), (2, 0): torch.zeros(4, 6), (0, 6): torch.zeros(6, 2)}
    load_tensors(folder, {"t": Parts((6, 8), parts)}, alone.group)
    assert torch.equal(parts[0, 0], table[:2, :6])
    assert torch.equal(parts[2, 0], table[2:, :6])
    assert torch.equal(parts[0, 6], table[:, 6:])


def test_a_save_that_fails_is_told_of_at_the_next_and_costs_no_other(
    saver, alone, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("cadc_rec"), "propagate", True)
    caplog.set_level(logging.WARNING, "cadc_rec")
    tensors = {"t": Parts.whole(torch.ones(3))}
    saver.save(1, tensors, BODY)
    saver.wait()
    saver.store.draft(2).write_text("in the way of a folder")
    saver.save(2, tensors, BODY)
    saver.save(3, tensors, BODY)
    saver.wait()
    (told,) = [record.getMessage() for record in caplog.records if record.name == "cadc_rec"]
    assert told.startswith("the checkpoint of step 2 was not saved, training goes on: ")
    assert "File exists" in told
    steps = [open_checkpoint(folder, alone).step for folder in saver.store.folders()]
    assert steps == [3, 1]


def test_a_full_disk_costs_a_warning_and_keeps_what_is_there(
    small_disk, alone, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("cadc_rec"), "propagate", True)
    caplog.set_level(logging.WARNING, "cadc_rec")
    disk = small_disk("1m")
    store = CheckpointStore(disk, "training")
    with store.owned():
        saver = Saver(store, alone.another_group(60), False, keep_last=2, keep_best=False)
        saver.save(1, {"t": Parts.whole(torch.ones(100))}, BODY)
        saver.save(2, {"t": Parts.whole(torch.ones(1_000_000))}, BODY)
    (told,) = [record.getMessage() for record in caplog.records if record.name == "cadc_rec"]
    assert "the checkpoint of step 2 was not saved" in told
    assert "no space left" in told
    assert [folder.name for folder in store.path.iterdir()] == ["000001-step-1"]


def test_after_three_failures_in_a_row_training_ends_and_the_last_good_one_is_kept(saver):
    saver.background, tensors = False, {"t": Parts.whole(torch.ones(3))}
    for step in range(1, 8):
        if step in (2, 3, 5, 6, 7):  # two in a row, and then three
            saver.store.draft(step).write_text("in the way of a folder")
        saver.save(step, tensors, BODY)
    with pytest.raises(CadcError, match="3 checkpoints in a row could not be saved") as refused:
        saver.save(8, tensors, BODY)
    newest = saver.store.folders()[0]
    assert newest.name.endswith("-step-4")
    assert f"(the last good one, {newest}, is kept)" in str(refused.value)
    assert "File exists" in str(refused.value)


@pytest.mark.slow
def test_killed_at_any_file_operation_there_is_a_whole_checkpoint(tmp_path, alone, dies_at):
    def write(store, step, score):
        draft = store.draft(step)
        draft.mkdir()
        (draft / "data.bin").write_bytes(bytes(range(step)))
        files = {"data.bin": file_entry(draft / "data.bin")}
        store.commit(step, files, {"score": score})
        store.keep(1, best=True)

    def go_on(store):
        with store.owned():
            write(store, 9, 0.1)

    newest = set()
    for moment in itertools.count():
        store = CheckpointStore(tmp_path / str(moment), "training")
        with store.owned():
            write(store, 3, 0.9)
            write(store, 6, 0.2)
        killed = dies_at(moment, lambda store=store: go_on(store))
        found = newest_whole(store, alone, no_refusal)
        newest.add(found.step)
        steps = {open_checkpoint(folder, alone).step for folder in store.folders()}
        assert 3 in steps  # the best one
        with store.owned():
            assert not list(store.path.glob(".*"))
        if not killed:
            break
    assert moment > 20
    assert newest == {6, 9}
    assert steps == {3, 9}


# --- when one is due ----------------------------------------------------------------------------


class Ranks:
    """One of two ranks; what rank 0 tells reaches the other through a list."""

    world_size = 2

    def __init__(self, rank, told):
        self.rank, self.told, self.asked = rank, told, 0

    def broadcast(self, value):
        self.asked += 1
        if self.rank == 0:
            self.told.append(value)
        return self.told[self.asked - 1]

    def all_gather(self, value):
        """Rank 0 asks first, so it knows nothing of the other one yet."""
        return [self.broadcast(value), value if self.rank else (False, None)]


@pytest.mark.parametrize("share", [0.5, 0.02])
def test_the_clock_and_what_the_last_one_took_decide(alone, share):
    now = [0.0]
    cadence = Cadence(10.0, share, alone, clock=lambda: now[0])
    due = []
    for second in range(100):
        now[0] = float(second)
        if cadence.due(busy=False):
            due.append(second)
            cadence.saved(stood_still=0.4)
    # a share of 0.02 puts the next one 0.4 * 49 = 19.6 seconds off
    assert due == ([10, 20, 30, 40, 50, 60, 70, 80, 90] if share == 0.5 else [10, 30, 50, 70, 90])


def test_while_one_is_being_written_none_is_due(alone):
    now = [20.0]
    cadence = Cadence(10.0, 1.0, alone, clock=lambda: now[0])
    now[0] = 31.0
    assert not cadence.due(busy=True)
    assert cadence.due(busy=False)


def test_all_ranks_save_after_the_same_step_and_seldom_ask():
    now, told = [0.0], []
    cadences = [Cadence(60.0, 1.0, Ranks(rank, told), clock=lambda: now[0]) for rank in range(2)]
    due = [[], []]
    for step in range(20_000):
        now[0] += 0.01 if step < 9_000 else 0.02
        for rank, cadence in enumerate(cadences):
            if cadence.due(busy=False):
                due[rank].append(round(now[0]))
                cadence.saved(0.0)
    assert due[0] == due[1]
    assert len(due[0]) == 5  # of 310 seconds
    assert all(60 <= b - a <= 62 for a, b in zip([0, *due[0]], due[0], strict=False))
    assert len(told) < 400  # about one a second at most, and far fewer than steps


def test_a_rank_that_is_told_to_end_has_all_save_within_seconds():
    now, told = [0.0], []
    ends = lambda: now[0] > 100.0  # noqa: E731
    cadences = [
        Cadence(3600.0, 1.0, Ranks(rank, told), None if rank else ends, lambda: now[0])
        for rank in range(2)
    ]
    while not any(cadence.ends for cadence in cadences):
        now[0] += 0.01
        due = [cadence.due(busy=False) for cadence in cadences]
    assert due == [True, True]
    assert all(cadence.ends for cadence in cadences)
    assert now[0] < 107


# --- momentum -------------------------------------------------------------------------------------


def test_joined_groups_have_the_momentum_that_one_group_would_have_had():
    """The sum over steps of the mean square gradient over a group's columns."""
    gradients = np.random.default_rng(0).normal(size=(5, 6, 12))  # steps, rows, columns
    groups = [(0, 4), (4, 12)]
    saved = np.stack([(gradients[:, :, a:b] ** 2).mean(2).sum(0) for a, b in groups], 1)
    joined = regrouped(torch.from_numpy(saved), groups, (0, 12))
    np.testing.assert_allclose(joined, (gradients**2).mean(2).sum(0), rtol=1e-12)


def test_a_divided_group_gives_its_mean_to_all_its_parts():
    saved = torch.tensor([[1.0, 5.0], [2.0, 8.0]])
    assert regrouped(saved, [(0, 4), (4, 8)], (0, 4)).tolist() == [1.0, 2.0]
    assert regrouped(saved, [(0, 8), (8, 16)], (8, 12)).tolist() == [5.0, 8.0]
    # columns 4 to 10: four of the first group, two of the second
    assert regrouped(saved, [(0, 8), (8, 12)], (4, 10)).tolist() == pytest.approx(
        [(4 * 1 + 2 * 5) / 6, (4 * 2 + 2 * 8) / 6]
    )
