"""Histories in training: pooled once or for each step, the run is the same."""

import numpy as np
import torch

from cadc_rec.data.transition_lists import TransitionLists
from cadc_rec.models.known_on_device import ListedOnDevice
from cadc_rec.models.known_scores import ListedExamples
from cadc_rec.training.build import build_model
from cadc_rec.training.kept import Histories
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
