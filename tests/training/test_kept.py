"""Histories in training: pooled once or for each step, the run is the same."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cadc_rec.data.load.batches import Batch
from cadc_rec.data.transition_lists import TransitionLists
from cadc_rec.models.history import History
from cadc_rec.models.known_on_device import ListedOnDevice
from cadc_rec.models.known_scores import ListedExamples
from cadc_rec.training.build import build_model
from cadc_rec.training.context import Requests
from cadc_rec.training.kept import Histories
from cadc_rec.training.steps import pipelined
from cadc_rec.training.steps.step import Terms
from tests.distributed import toy


def test_kept_contexts_are_what_a_lookup_gives_and_rows_are_found_again(alone):
    e = toy.experiment("history", "data_parallel")
    model = build_model(e, toy.dataset(), toy.pretrained("history"), alone).module
    history = toy.histories(70)
    width = 4 * 70 * model.history_width
    kept = Histories(model, history, [70], alone, limit_bytes=width)
    anew = Histories(model, history, [70], alone, limit_bytes=width - 1)
    assert kept.kept is not None
    assert anew.kept is None
    rows = np.random.default_rng(0).permutation(70)[:33]
    expected = model.read(torch.from_numpy(history[rows])).parts()
    assert [tuple(part.shape) for part in expected] == [(33, 3, toy.DIM), (33, 3, 4)]
    for histories in (kept, anew):
        found = histories.of(torch.from_numpy(rows)).parts()
        assert all(map(torch.equal, found, expected))


def test_histories_that_are_read_step_by_step_are_held_once_on_a_device(alone):
    e = toy.experiment("history", "data_parallel")
    model = build_model(e, toy.dataset(), toy.pretrained("history"), alone).module
    history = toy.histories(70)
    lists = TransitionLists(
        np.arange(toy.ITEMS + 1),
        np.arange(toy.ITEMS, dtype=np.int32),
        np.ones(toy.ITEMS, np.float32),
    )
    listed = ListedOnDevice(ListedExamples(lists, 0.1, history), torch.device("cpu"))
    asked = torch.arange(70), torch.arange(toy.ITEMS)
    expected = listed.of(*asked)
    read = Histories(model, history, [70], alone, history.nbytes, [listed])
    assert read.kept is None
    assert listed._history.data_ptr() == read._history.data_ptr()
    assert torch.equal(listed.of(*asked), expected)


def test_a_run_is_the_same_to_the_bit_whether_histories_are_kept(alone):
    kept, anew = (toy.train("history", "data_parallel", alone, cached=c) for c in (True, False))
    assert kept["loss"] == anew["loss"]
    assert kept["learned"] == anew["learned"]


class OfMeta:
    """A model on a device that nothing can be read back from."""

    history_width = 1
    device = torch.device("meta")

    def read(self, history):
        assert history.device == self.device
        return History(means=history[:, :, None].float())


@pytest.mark.parametrize("context", [False, True])
def test_a_step_sent_ahead_reads_on_the_host_what_lies_there_before_its_batch_leaves(
    context, monkeypatch
):
    """Histories that are too large for the device, and lists too."""
    history, seen, meta = toy.histories(9), [], OfMeta.device
    lists = TransitionLists(np.array([0, 1]), np.zeros(1, np.int32), np.ones(1, np.float32))
    listed = ListedExamples(lists, 0.5, np.zeros((9, 1), np.int32))
    on_gpu = SimpleNamespace(device=meta)
    read = Histories(OfMeta(), history, [9], on_gpu, limit_bytes=0, known=[listed])
    if context:
        read = Requests(np.zeros((9, 2), np.int32), read, meta)

    class Pipeline:
        """Copies each batch and takes its step, as the real one does."""

        def __init__(self, collections, ids, step, optimizer, device):
            self.ids, self.step = ids, step

        def steps(self, batches):
            for batch in batches:
                there = batch.each(lambda each: each.to(meta))
                assert self.ids(there) is there.batch.users
                yield self.step(there, {})[1]

    def model(batch, history, scores, loss):
        seen.append((batch.users.device, history.means.shape, scores.candidates.shape))
        assert (history.request is not None) == context
        return torch.zeros((), device=meta)

    monkeypatch.setattr(pipelined, "LookupPipeline", Pipeline)
    towers = SimpleNamespace(
        trained_tables=dict, looked_up=lambda batch: batch.users, take_ahead=lambda rows: None
    )
    one = torch.ones((), device=meta)
    step = SimpleNamespace(
        processes=on_gpu,
        optimizer=None,
        histories=read,
        terms=lambda positives: Terms(one, one),
        precision="float32",
        matmul="float32",
        model=model,
        objective=SimpleNamespace(loss=None),
    )
    rows = torch.tensor([7, 2, 3])
    batch = Batch(rows, torch.zeros(1, dtype=torch.int64), rows=rows, labels=torch.zeros_like(rows))
    source = SimpleNamespace(epoch=lambda epoch, done: (b for b in [batch, batch]), steps=2)
    steps = pipelined.PipelinedSteps(source, step, towers)
    for given in steps.inputs(1):
        steps.take(given)
    assert seen == [(meta, (3, toy.LENGTH, 1), (3, 1))] * 2
