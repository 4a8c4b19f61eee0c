"""Losses against the formula, entry by entry."""

import math
from itertools import combinations, product

import numpy as np
import pytest
import torch

from cadc_rec.training.losses import (
    binary_cross_entropy,
    logq_offsets,
    mixed_offsets,
    sampled_cross_entropy,
    softmax_cross_entropy,
)


def test_binary_cross_entropy_sums_minus_log_likelihood_of_positives_and_negatives():
    scores = [[0.3, -1.0, 2.0], [-0.2, 0.0, 5.0]]  # a positive, then its two negatives

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    expected = 0.0
    for positive, *negatives in scores:
        expected -= math.log(sigmoid(positive))
        expected -= sum(math.log(1 - sigmoid(s)) for s in negatives)
    got = binary_cross_entropy(torch.tensor(scores).flatten(), negatives=2)
    assert float(got) == pytest.approx(expected, rel=1e-6)


def test_extreme_scores_keep_the_loss_finite():
    scores = torch.tensor([1e4, -1e4, -1e4, 1e4])
    assert float(binary_cross_entropy(scores, negatives=1)) == pytest.approx(2e4)


def test_logqs_offset_is_the_log_of_an_items_frequency_over_the_mean_one():
    counts = [0, 1, 3, 0, 11]  # with one more each: 1, 2, 4, 1, 12, whose mean is 4
    expected = [math.log(0.25), math.log(0.5), 0.0, math.log(0.25), math.log(3)]
    assert logq_offsets(torch.tensor(counts)).tolist() == pytest.approx(expected, abs=1e-6)


def test_equally_frequent_items_have_no_offset():
    assert logq_offsets(torch.full((6,), 17)).tolist() == [0.0] * 6


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_mixed_negatives_offset_is_how_often_an_item_is_expected_among_the_candidates(steps):
    """Every way to cut five rows into steps and to draw two of four items, counted one by one."""
    rows, n_items, negatives = [0, 0, 0, 2, 3], 4, 2
    expected = np.zeros(n_items)
    for size in {1: [5], 2: [3, 2], 5: [1] * 5}[steps]:
        outcomes = list(product(combinations(rows, size), product(range(4), repeat=negatives)))
        for positives, drawn in outcomes:
            expected[list({*positives, *drawn})] += 1 / (steps * len(outcomes))
    counts = np.bincount(rows, minlength=n_items)
    got = mixed_offsets(counts, steps, negatives)
    np.testing.assert_allclose(got.numpy(), np.log(expected), atol=1e-6)


def test_a_rank_without_rows_expects_its_uniform_draws_alone():
    got = mixed_offsets(np.zeros(4, np.int64), 3, 2)
    np.testing.assert_allclose(got.numpy(), np.log(1 - (3 / 4) ** 2), rtol=1e-6)


SCORES = [[1.0, -2.0, 0.5, 3.0], [0.0, 4.0, -1.0, 2.0]]
LABELS = [2, 1]


def by_hand(scores, labels, candidates, temperature=1.0):
    """Sum of minus the log of the softmax, over each row's candidates and its positive."""
    total = 0.0
    for row, label in zip(scores, labels, strict=True):
        among = {*candidates, label}
        exponentials = {c: math.exp(row[c] / temperature) for c in among}
        total -= math.log(exponentials[label] / sum(exponentials.values()))
    return total


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("candidates", [[0, 1, 2, 3], [0, 3], [1], [2]])
def test_a_softmax_is_over_the_negatives_and_a_rows_own_positive_once(candidates, temperature):
    scores, labels = torch.tensor(SCORES), torch.tensor(LABELS)
    own, repeated = scores[torch.arange(2), labels], torch.tensor([x in candidates for x in LABELS])
    got = sampled_cross_entropy(scores[:, candidates], own, repeated, temperature=temperature)
    expected = by_hand(SCORES, LABELS, candidates, temperature)
    assert float(got) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_gradients_of_a_sampled_softmax_are_those_of_its_sum():
    """Against differences in float64; row 1's positive is column 1, too."""
    given = [torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in (SCORES, [0.3, 4.0])]
    repeated, masked = torch.tensor([False, True]), torch.tensor([[0, 1], [3, 0]])

    def lost(scores, own):
        return sampled_cross_entropy(scores, own, repeated, 0.5, masked)

    assert torch.autograd.gradcheck(lost, given)


def test_a_row_that_leaves_out_all_negatives_loses_nothing_and_keeps_its_gradients_finite():
    scores, own = torch.tensor(SCORES, requires_grad=True), torch.tensor([1.0, -3.0])
    own.requires_grad_()
    masked = torch.tensor([[0] * 4, list(range(4))])
    got = sampled_cross_entropy(scores, own, torch.tensor([False, False]), masked=masked)
    total = sum(map(math.exp, SCORES[1])) + math.exp(-3)
    assert got.item() == pytest.approx(3 + math.log(total), rel=1e-6)
    got.backward()
    assert scores.grad[0].tolist() == [0.0] * 4
    expected = [math.exp(s) / total for s in SCORES[1]]
    assert scores.grad[1].tolist() == pytest.approx(expected, rel=1e-5)
    assert own.grad.tolist() == pytest.approx([0, math.exp(-3) / total - 1], abs=1e-6)


def test_a_softmax_over_everything_needs_no_mark():
    got = softmax_cross_entropy(torch.tensor(SCORES), torch.tensor(LABELS))
    assert float(got) == pytest.approx(by_hand(SCORES, LABELS, range(4)), rel=1e-5)


def test_no_rows_have_no_loss_and_keep_the_graph():
    scores = torch.zeros(0, 4, requires_grad=True)
    loss = softmax_cross_entropy(scores, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert float(loss.detach()) == 0


def test_masked_candidates_are_no_part_of_the_sum_and_get_no_gradient():
    """Row 0 leaves out column 3, row 1 columns 0 and 2."""
    scores = torch.tensor(SCORES, requires_grad=True)
    masked = torch.tensor([[0, 1, 1], [3, 0, 2]])
    got = softmax_cross_entropy(scores, torch.tensor(LABELS), masked=masked)
    expected = by_hand(SCORES[:1], LABELS[:1], [0, 1, 2]) + by_hand(SCORES[1:], LABELS[1:], [1, 3])
    assert got.item() == pytest.approx(expected, rel=1e-6)
    got.backward()
    assert scores.grad[masked[0], masked[1]].tolist() == [0.0, 0.0, 0.0]
    assert (scores.grad != 0).sum() == 5
