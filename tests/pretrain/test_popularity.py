"""Popularity: an item's number of training interactions is its score, for every user."""

import numpy as np
import torch

from cadc_rec.data.user_items import UserItems
from cadc_rec.evaluation.ranking import held_out_ranks
from cadc_rec.models.factorization import as_dot_products
from cadc_rec.pipeline.stages.pretrain import popularity_tables


def test_the_score_of_an_item_is_how_often_it_was_taken():
    tables = popularity_tables(np.bincount([3, 1, 3, 0, 3, 1], minlength=5), 2)
    users, items = as_dot_products(tables.user, tables.item)
    assert (users @ items.T).tolist() == [[1.0, 2.0, 0.0, 3.0, 0.0]] * 2


def test_items_rank_by_their_count_and_ties_count_against_us():
    counts = [1, 2, 0, 3, 0]
    taken = np.repeat(np.arange(5), counts).astype(np.int32)
    tables = popularity_tables(np.bincount(taken, minlength=5), 5)
    nothing = UserItems(np.zeros(6, dtype=np.int64), np.zeros(0, dtype=np.int32))
    ranks = held_out_ranks(*as_dot_products(tables.user, tables.item), np.arange(5), nothing)
    assert ranks.tolist() == [3, 2, 5, 1, 5]


def test_counts_of_many_interactions_stay_exact():
    taken = np.repeat(np.arange(2), [2**20 + 1, 2**20]).astype(np.int32)
    tables = popularity_tables(np.bincount(taken, minlength=2), 1)
    assert tables.item[:, 1].tolist() == [2**20 + 1, 2**20]
    assert tables.item.dtype == torch.float32
