"""Dropout by bytes: the rate, the mean, each element on its own."""

import pytest
import torch

from cadc_rec.models.tower import ByteDropout


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5, 0.9])
def test_the_asked_for_share_is_dropped_and_the_mean_stays(rate):
    torch.manual_seed(0)
    out = ByteDropout(rate).train()(torch.ones(1000, 101))
    kept = 1 - round(rate * 256) / 256
    assert (out == 0).float().mean().item() == pytest.approx(1 - kept, abs=0.005)
    assert torch.unique(out).tolist() == pytest.approx([0.0, 1 / kept])
    # The eight bytes of a word are alike, and neighbours do not follow each other.
    zero = (out == 0).flatten()[:100_000].view(-1, 8).float()
    assert zero.mean(0).tolist() == pytest.approx([1 - kept] * 8, abs=0.02)
    correlation = torch.corrcoef(zero.T) - torch.eye(8)
    assert correlation.abs().max().item() < 0.05


def test_gradients_pass_only_where_values_do():
    torch.manual_seed(0)
    x = torch.randn(50, 16, requires_grad=True)
    out = ByteDropout(0.5).train()(x)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (out != 0).float() * 2)


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero():
    x = torch.randn(10, 3)
    assert ByteDropout(0.5).eval()(x) is x
    assert ByteDropout(0.0).train()(x) is x


def test_the_seed_decides_the_mask():
    x, layer = torch.ones(100), ByteDropout(0.3).train()
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(layer(x))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
