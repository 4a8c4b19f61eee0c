"""Lists of items that are alike by their attributes, and their part in the fitted prior."""

import numpy as np
import pytest

from cadc_rec.data.content_lists import blended, content_lists
from cadc_rec.data.dataset import Attribute
from cadc_rec.data.transition_lists import best_targets
from cadc_rec.pretrain.prior_fit import FittedPrior, fit_prior, fitted_tables
from tests.pretrain.test_prior_fit import CONFIG, HISTORY, LENGTH, N_ITEMS, a_dataset, given, ndcg


def attribute(values, size):
    """Of items with any number of values each; 0 is unknown."""
    lengths = np.array([len(each) for each in values])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.array([value for each in values for value in each], np.int32)
    return Attribute("topic", "multi", size, indptr, flat)


def dense(lists):
    return lists.matrix.toarray()


def test_items_are_as_alike_as_their_tf_idf_vectors():
    rng = np.random.default_rng(3)
    topics = [np.unique(rng.integers(0, 8, rng.integers(0, 4))) for _ in range(30)]
    brand = [[value] for value in rng.integers(0, 5, 30)]
    got = content_lists([attribute(topics, 8), attribute(brand, 5)], 30)
    has = np.zeros((30, 13))
    for item in range(30):
        has[item, topics[item]] = has[item, 8 + brand[item][0]] = 1
    has[:, [0, 8]] = 0  # nothing is known
    weighted = has * np.log(30 / np.maximum(has.sum(0), 1))
    lengths = np.linalg.norm(weighted, axis=1, keepdims=True)
    unit = np.divide(weighted, lengths, out=np.zeros_like(weighted), where=lengths > 0)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, 0)
    np.testing.assert_allclose(dense(got), cosine, atol=1e-6)


def test_blended_lists_have_the_sum_of_both_scores():
    lists, content = given().lists, content_lists([attribute([[1], [1], [2]] * 13 + [[2]], 3)], 40)
    got = blended(lists, content, 0.3)
    np.testing.assert_allclose(dense(got), dense(lists) + 0.3 * dense(content), rtol=1e-6)
    falling = [got.weights[a:b] for a, b in zip(got.indptr[:-1], got.indptr[1:], strict=True)]
    assert all((np.diff(each) <= 0).all() for each in falling)


def test_items_without_a_value_in_common_have_no_lists():
    assert content_lists([], 4) is None
    assert content_lists([attribute([[1], [2], [3], [0]], 4)], 4) is None


def a_world_of_neighbours():
    """The ring of items, each of which has a topic in common with the next one and no other."""
    dataset = a_dataset()
    dataset.item_attributes = [
        attribute([[1 + item, 1 + (item + 1) % N_ITEMS] for item in range(N_ITEMS)], N_ITEMS + 1)
    ]
    return dataset


def test_content_that_tells_the_next_item_counts(tmp_path):
    dataset = a_world_of_neighbours()
    pretrained = given()
    noisy = type(pretrained)(pretrained.ids)  # no transitions: ALS vectors that know nothing
    fitted = fit_prior(CONFIG, HISTORY, 0, dataset, noisy)
    assert fitted.factors["content"] > 0
    chance = sum(1 / np.log2(rank + 1) for rank in range(1, 11)) / N_ITEMS
    assert fitted.alone["content"] > 3 * chance > 2 * fitted.alone["folded"]
    tables = fitted_tables(CONFIG, HISTORY, dataset, noisy, fitted)
    assert ndcg(tables, dataset) == pytest.approx(fitted.ndcg, abs=2e-3)
    fitted.save(tmp_path)
    again = FittedPrior.open(tmp_path)
    assert again == fitted
    again = fitted_tables(CONFIG, HISTORY, dataset, noisy, again).listed(LENGTH)
    history = dataset.last_items(LENGTH, with_validation=False)
    np.testing.assert_array_equal(
        again.of(history).toarray(), tables.listed(LENGTH).of(history).toarray()
    )
    off = CONFIG.model_copy(update={"content": False})
    assert "content" not in fit_prior(off, HISTORY, 0, dataset, pretrained).factors


def test_content_beside_transitions_is_what_evaluation_finds():
    dataset = a_world_of_neighbours()
    pretrained = given()
    half = pretrained.lists.matrix.copy()
    half.data[half.indices % 2 == 0] = 0  # transitions lead to every second item only
    half.eliminate_zeros()
    half = best_targets(half, 10)
    pretrained = type(pretrained)(pretrained.ids, lists=half)
    fitted = fit_prior(CONFIG, HISTORY, 0, dataset, pretrained)
    assert fitted.factors["content"] > 0
    assert fitted.ndcg > fitted.without["content"] + 0.01
    tables = fitted_tables(CONFIG, HISTORY, dataset, pretrained, fitted)
    assert ndcg(tables, dataset) == pytest.approx(fitted.ndcg, abs=2e-3)
