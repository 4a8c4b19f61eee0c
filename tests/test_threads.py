"""Work on several threads: all of it is done, and torch is left as it was."""

import os
import threading

import numpy as np
import pytest
import torch

from cadc_rec.data.user_items import UserItems
from cadc_rec.serving.predict.top_k import ItemVectors, NotCandidates, load_ahead
from cadc_rec.threads import on_threads


def counted():
    """Work that waits until three threads are at it, and what each of them met."""
    all_here, met = threading.Barrier(3), []

    def work():
        all_here.wait(60)
        met.append((threading.current_thread().name, torch.get_num_threads()))

    return work, met


def test_each_thread_has_torch_to_itself_and_the_caller_has_its_threads_again(three_threads):
    work, met = counted()
    for _ in range(2):
        on_threads(work, 3, torch)
    assert len(met) == 6
    assert len({name for name, _ in met}) == 3
    assert {threads for _, threads in met} == {1}
    assert torch.get_num_threads() == 3


def test_a_thread_that_fails_is_heard_of_here(three_threads):
    here, begun = threading.get_ident(), threading.Event()

    def work():
        if threading.get_ident() != here:
            begun.set()
            raise ValueError("there")
        begun.wait(60)

    with pytest.raises(ValueError, match="there"):
        on_threads(work, 3, torch)
    assert torch.get_num_threads() == 3


def test_a_forked_child_has_threads_of_its_own(three_threads):
    on_threads(lambda: None, 3, torch)
    child = os.fork()
    if not child:
        work, met = counted()
        on_threads(work, 3, torch)
        os._exit(len(met))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_answers_are_the_same_on_any_number_of_threads(three_threads):
    load_ahead()
    draw = np.random.default_rng(0)
    n, n_items, k = 301, 5_000, 10
    items = draw.integers(-3, 4, (n_items, 6)).astype(np.float32)  # many equal scores
    queries = draw.integers(-3, 4, (n, 6)).astype(np.float32)
    taken = [draw.permutation(n_items)[:count].astype(np.int32) for count in range(n)]
    out = NotCandidates(UserItems.of_lists(taken), np.array([7], np.int64))
    best = ItemVectors(items).best(queries, k, out)
    scores = queries.astype(np.float64) @ items.T.astype(np.float64)
    scores[:, 7] = -np.inf
    for line, gone in zip(scores, taken, strict=True):
        line[gone] = -np.inf
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(best.rows, expected)
    np.testing.assert_array_equal(best.scores, np.take_along_axis(scores, expected, 1))
