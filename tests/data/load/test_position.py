"""An epoch that is gone on with in the middle uses every row once, whoever goes on."""

import numpy as np
import pytest

from cadc_rec.data.load.loader import Loader
from cadc_rec.data.load.position import Stretch, advanced, taken
from cadc_rec.data.load.shards import Examples

SHARDS = [31, 7, 0, 22, 18, 29]  # rows of each shard


class Rows:
    """An arrangement that only says which rows, by a number of their own in all of D_sel."""

    def __call__(self, step, examples):
        return examples.users, step


def loaders(ranks, batch_size=10):
    """The loader of every rank; a row's user is its number over all shards."""
    numbers = np.split(np.arange(sum(SHARDS)), np.cumsum(SHARDS)[:-1])
    of_rank = [np.concatenate(numbers[rank::ranks]).astype(np.int32) for rank in range(ranks)]
    counts = [len(rows) for rows in of_rank]
    return [
        Loader(Examples(rows, rows), counts, rank, batch_size, 3, Rows(), SHARDS)
        for rank, rows in enumerate(of_rank)
    ]


def took(ranks, epoch, done, steps=None):
    """Rows of each of the steps that follow `done`, over all ranks, and where it stands then."""
    of_rank = [list(loader.epoch(epoch, done))[:steps] for loader in loaders(ranks)]
    rows = [np.concatenate([rows for rows, _ in step]) for step in zip(*of_rank, strict=True)]
    return rows, advanced(done, ranks, taken(done) + len(rows))


@pytest.mark.parametrize("ranks", [(2, 1), (1, 2), (3, 4, 1), (2, 2), (4, 1, 4, 2), (1, 1, 6)])
def test_every_row_is_used_once_however_often_the_number_of_ranks_changes(ranks):
    seen, done = [], ()
    for number in ranks[:-1]:
        rows, done = took(number, 2, done, steps=3)
        seen += rows
    rows, done = took(ranks[-1], 2, done)
    seen += rows
    assert sorted(np.concatenate(seen)) == list(range(107))
    assert len(seen) == taken(done) == 11  # ceil(107 / 10), as if undisturbed


def test_steps_stay_even_after_a_change():
    """Eight steps are left of eleven, for 107 rows less what three steps took."""
    first, done = took(2, 1, (), steps=3)
    left = 107 - sum(len(rows) for rows in first)
    sizes = [len(rows) for rows in took(3, 1, done)[0]]
    assert sum(sizes) == left
    assert max(sizes) - min(sizes) <= 3  # each rank's pieces differ by one


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("after", [1, 5, 10])
def test_as_many_ranks_go_on_with_the_same_batches(ranks, after):
    whole = took(ranks, 4, ())[0]
    first, done = took(ranks, 4, (), steps=after)
    assert done == (Stretch(ranks, 0, after),)
    rest = took(ranks, 4, done)[0]
    for there, here in zip(whole, [*first, *rest], strict=True):
        np.testing.assert_array_equal(there, here)


def test_what_follows_a_change_is_itself_gone_on_with():
    done = took(2, 1, (), steps=4)[1]
    whole = took(3, 1, done)[0]
    first, further = took(3, 1, done, steps=2)
    assert further == (Stretch(2, 0, 4), Stretch(3, 4, 6))
    for there, here in zip(whole, [*first, *took(3, 1, further)[0]], strict=True):
        np.testing.assert_array_equal(there, here)


def test_all_ranks_know_how_many_positives_a_step_has():
    done = took(2, 1, (), steps=3)[1]
    of_rank = [list(loader.epoch(1, done)) for loader in loaders(4)]
    for step in zip(*of_rank, strict=True):
        assert {place.positives for _, place in step} == {sum(len(rows) for rows, _ in step)}


def test_negatives_after_a_change_are_drawn_from_another_stream():
    done = took(2, 1, (), steps=3)[1]
    before = next(iter(loaders(1)[0].epoch(1)))[1].key(6)
    after = next(iter(loaders(1)[0].epoch(1, done)))[1].key(6)
    assert before == (3, 6, 1, 0)
    assert after == (3, 6, 1, 0, 3)
