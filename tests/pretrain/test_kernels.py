"""A half-step's sums, of both implementations, against float64 NumPy, one entry at a time."""

import numpy as np
import pytest
import torch

from cadc_rec.pretrain.kernels import FusedGradient, Lanes, Pattern, torch_gradient

LENGTHS = [0, 3, 0, 0, 255, 256, 257, 1, 0, 700, 4, 513, 0]  # the loop holds 256 entries at once
COLUMNS, WIDTH = 90, 7
FUSED = FusedGradient(Lanes())


def problem(lengths=LENGTHS, columns=COLUMNS, width=WIDTH, scale=1.0, index=np.int32, seed=0):
    """Arguments of a kernel but for the label: pattern, mine, others, other_bias, bias, into."""
    rng = np.random.default_rng(seed)
    crow = np.concatenate([[0], np.cumsum(lengths)]).astype(index)
    col = rng.integers(0, columns, crow[-1]).astype(index)  # an entry may stand several times
    mine, others, other_bias, into = (
        torch.from_numpy(rng.normal(size=shape).astype(np.float32))
        for shape in ((len(lengths), width), (columns, width), (columns,), (len(lengths), width))
    )
    pattern = Pattern(torch.from_numpy(crow), torch.from_numpy(col))
    return pattern, scale * mine, scale * others, other_bias, torch.tensor(-0.4), into


def expected_sums(label, pattern, mine, others, other_bias, bias, into):
    """In float64: what the rows receive, the sum of errors and that of the positives' log loss."""
    x, y, c, b = (t.double().numpy() for t in (mine, others, other_bias, bias))
    crow, col = pattern.crow.numpy(), pattern.col.numpy()
    received, errors, loss = into.double().numpy().copy(), 0.0, 0.0
    for row in range(len(crow) - 1):
        entries = col[crow[row] : crow[row + 1]]
        score = y[entries] @ x[row] + c[entries] + b
        probability = 0.5 * (1 + np.tanh(score / 2))
        received[row] += (probability - label) @ y[entries]
        errors += (probability - label).sum()
        loss += np.logaddexp(0, -score).sum() if label else 0.0
    return received, errors, loss


def run(kernel, label, arguments):
    pattern, mine, others, other_bias, bias, into = arguments
    received = into.clone()
    gradient = kernel(pattern, label, mine, others, other_bias, bias, received)
    return received, gradient


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("label", [1.0, 0.0])
@pytest.mark.parametrize("kernel", [torch_gradient, FUSED])
def test_the_sums_are_those_of_float64_with_empty_rows_and_long_ones(kernel, label, index):
    arguments = problem(index=index)
    rows, errors, loss = expected_sums(label, *arguments)
    received, gradient = run(kernel, label, arguments)
    np.testing.assert_allclose(received.numpy(), rows, rtol=1e-4, atol=2e-4)
    assert float(gradient.bias) == pytest.approx(errors, rel=1e-4, abs=1e-3)
    assert float(gradient.loss) == pytest.approx(loss, rel=1e-4)
    empty = [row for row, length in enumerate(LENGTHS) if length == 0]
    assert torch.equal(received[empty], arguments[-1][empty])


@pytest.mark.parametrize("width", [1, 4, 6, 96])
def test_both_kernels_form_the_same_sums_for_any_width(width):
    # as far apart as sums of a thousand float32 numbers may be
    arguments = problem(width=width, scale=width**-0.25)
    for label in (1.0, 0.0):
        (mine, a), (theirs, b) = (run(k, label, arguments) for k in (FUSED, torch_gradient))
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-4)
        assert float(a.bias) == pytest.approx(float(b.bias), rel=1e-4, abs=1e-3)
        assert float(a.loss) == pytest.approx(float(b.loss), rel=1e-4)


@pytest.mark.parametrize("label", [1.0, 0.0])
def test_any_number_of_threads_gives_the_same_bits(label):
    results = []
    for count in (1, 2, 3, 16):  # more threads than rows, too
        received, gradient = run(FusedGradient(Lanes(count)), label, problem())
        results.append((received, gradient.bias, gradient.loss))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("kernel", [torch_gradient, FUSED])
@pytest.mark.parametrize("label", [1.0, 0.0])
@pytest.mark.parametrize("logit", [-200.0, 200.0, -88.0, 88.0, -1e30, 1e30])
def test_extreme_logits_give_finite_sums_and_certain_probabilities(kernel, label, logit):
    pattern = Pattern(torch.tensor([0, 6], dtype=torch.int32), torch.zeros(6, dtype=torch.int32))
    mine, others, into = torch.tensor([[logit]]), torch.ones(1, 1), torch.zeros(1, 1)
    gradient = kernel(pattern, label, mine, others, torch.zeros(1), torch.tensor(0.0), into)
    error = 6 * ((logit > 0) - label)  # six entries of probability 0 or 1
    assert float(into) == pytest.approx(error, abs=1e-6)
    assert float(gradient.bias) == pytest.approx(error, abs=1e-6)
    # a probability counts as at least 1e-7 in the loss
    loss = 6 * -np.log(1e-7) if label and logit < 0 else 0.0
    assert float(gradient.loss) == pytest.approx(loss, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("kernel", [torch_gradient, FUSED])
def test_probabilities_are_right_over_the_whole_range(kernel):
    """One row for each logit between -30 and 30; the row receives sigma(logit)."""
    logits = np.linspace(-30, 30, 4001, dtype=np.float32)
    crow, col = torch.arange(4002, dtype=torch.int32), torch.zeros(4001, dtype=torch.int32)
    into = torch.zeros(4001, 1)
    mine, one = torch.from_numpy(logits)[:, None].contiguous(), torch.ones(1, 1)
    kernel(Pattern(crow, col), 0.0, mine, one, torch.zeros(1), torch.tensor(0.0), into)
    expected = 1 / (1 + np.exp(-logits.astype(np.float64)))
    np.testing.assert_allclose(into[:, 0].numpy(), expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize("kernel", [torch_gradient, FUSED, FusedGradient(Lanes(3))])
def test_no_entries_change_nothing(kernel):
    arguments = problem(lengths=[0, 0, 0])
    received, gradient = run(kernel, 1.0, arguments)
    assert torch.equal(received, arguments[-1])
    assert (float(gradient.bias), float(gradient.loss)) == (0.0, 0.0)
