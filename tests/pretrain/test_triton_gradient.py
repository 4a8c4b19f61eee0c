"""The Triton kernel of MF's gradient, in Triton's interpreter, against the plain path.

Skipped where there is no Triton (``pip install triton``); on a GPU the kernel itself runs.
"""

import os
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from cadc_rec.config.experiment import PretrainConfig
from cadc_rec.data.randomness import positional_integers
from cadc_rec.distributed.processes import Processes
from cadc_rec.pretrain.alternating import AlternatingSolver, Interactions
from cadc_rec.pretrain.factor_tables import ReplicatedTable
from cadc_rec.pretrain.kernels import DrawnPattern, Pattern, torch_gradient

if find_spec("triton") is None:
    pytest.skip("there is no Triton", allow_module_level=True)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

ROWS, COLUMNS, WIDTH = 7, 50, 5
KEY = (3, 2, 1)
ALONE = Processes(0, 1, 1, DEVICE)


@pytest.fixture
def kernel():
    from cadc_rec.pretrain.triton_gradient import TritonGradient

    return TritonGradient()


def world(columns=COLUMNS):
    torch.manual_seed(0)
    mine, others = torch.randn(ROWS, WIDTH), torch.randn(columns, WIDTH)
    counts = torch.tensor([0, 3, 70, 1, 0, 33, 2])
    crow = torch.cat([torch.zeros(1), counts.cumsum(0)]).int()
    given = mine, others, torch.randn(columns), torch.tensor(0.3), crow
    return [tensor.to(DEVICE) for tensor in given]


def assert_same(kernel, given, pattern, label, mine, others, other_bias, bias):
    into, expected = (torch.ones(ROWS, WIDTH, device=DEVICE) for _ in range(2))
    found = kernel(given, label, mine, others, other_bias, bias, into)
    sums = torch_gradient(pattern, label, mine, others, other_bias, bias, expected)
    torch.testing.assert_close(into, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.bias, sums.bias, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.loss, sums.loss, rtol=1e-5, atol=1e-5)
    assert not torch.equal(into, torch.ones_like(into))


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_it_adds_what_the_sparse_products_add(kernel, label):
    *arguments, crow = world()
    pattern = Pattern(crow, torch.randint(0, COLUMNS, (int(crow[-1]),)).int().to(DEVICE))
    assert_same(kernel, pattern, pattern, label, *arguments)


@pytest.mark.parametrize(("below", "listed"), [(50, False), (2**20 + 9, False), (2**20 + 9, True)])
@pytest.mark.parametrize("first", [0, 5])
def test_it_draws_the_negatives_that_numpy_draws(kernel, below, listed, first):
    """By halves of a word below 2**20, by whole words above."""
    *arguments, crow = world(COLUMNS if listed else below)
    columns = positional_integers(KEY, first, int(crow[-1]), below)
    values = (torch.arange(below, device=DEVICE) % COLUMNS).int() if listed else None
    drawn = torch.from_numpy(columns).to(DEVICE)
    pattern = Pattern(crow.long(), drawn if values is None else values[drawn].long())
    assert_same(kernel, DrawnPattern(crow, KEY, first, below, values), pattern, 0.0, *arguments)


def test_it_learns_what_the_plain_path_learns(kernel):
    rng = np.random.default_rng(4)
    user, item = np.divmod(np.sort(rng.choice(12 * 9, 40, replace=False)), 9)
    by_item = np.lexsort((user, item))
    data = Interactions(
        np.searchsorted(user, np.arange(13)),
        item.astype(np.int32),
        np.searchsorted(item[by_item], np.arange(10)),
        user[by_item].astype(np.int32),
    )
    config = PretrainConfig(factors=4, epochs=3, negatives=2)

    def learned(kernel):
        tables = [ReplicatedTable(torch.zeros(n, 5, device=DEVICE), ALONE) for n in (12, 9)]
        bias = nn.Parameter(torch.zeros((), device=DEVICE))
        solver = AlternatingSolver(*tables, bias, data, config, 0, ALONE, kernel=kernel)
        losses = list(solver.epochs())
        return solver.draws, losses, [table.weight for table in tables]

    draws, losses, tables = learned(kernel)
    plain, expected, others = learned(torch_gradient)
    assert (draws, plain) == (True, False)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    torch.testing.assert_close(tables, others, rtol=1e-4, atol=1e-5)
