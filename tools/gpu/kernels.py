"""Kernels and ranking at production size: right against float64, and how fast.

python -m tools.gpu.kernels        # CHECK_DEVICE=cpu tries it without a GPU, in small
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from cadc_rec.data.load.batches import PairPattern
from cadc_rec.data.user_items import UserItems
from cadc_rec.evaluation.ranking import held_out_ranks
from cadc_rec.models.sparse import csr_matrix, pair_scores, weighted_sums
from cadc_rec.pretrain.kernels import Lanes, Pattern, kernel_for, torch_gradient
from tools.gpu.checks import Checks, device, seconds

STEPS = ((61_000, 50_000, 327_680, 64), (61_000, 300_000, 327_680, 128))
"""Different users, different items, pairs and width of a step."""
HALF_STEPS = ((2_000_000, 200_000, 100_000_000), (200_000, 2_000_000, 100_000_000))
"""Rows to move, rows of the other side, and entries of a factorization."""
RANKINGS = ((6_040, 3_706), (2_000, 1_000_000), (200, 5_000_000))
"""Users and items."""


def pattern_of(
    users: int, items: int, pairs: int, on: torch.device
) -> tuple[PairPattern[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Random pairs, few items taken often; also each pair's user and item."""
    draw = torch.Generator().manual_seed(0)
    user = torch.randint(0, users, (pairs,), generator=draw).sort().values
    item = (items * torch.rand(pairs, generator=draw) ** 2).long().clamp_max(items - 1)
    order = torch.argsort(item, stable=True)
    pointers = [
        torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(of, minlength=n).cumsum(0)])
        for of, n in ((user, users), (item, items))
    ]
    parts = pointers[0].int(), item.int(), pointers[1].int(), user[order].int(), order
    return PairPattern(*(part.to(on) for part in parts)), user.to(on), item.to(on)


def pairs(users: int, items: int, count: int, width: int, on: torch.device) -> str:
    """Scores of a step's pairs and both gradients, beside gathering the rows of each pair."""
    pattern, user, item = pattern_of(users, items, count, on)
    draw = torch.Generator().manual_seed(1)
    u, i = (torch.randn(n, width, generator=draw).to(on).requires_grad_() for n in (users, items))
    weight = torch.randn(count, generator=draw).to(on)
    scores = pair_scores(u, i, pattern)
    scores.backward(weight)
    wide_u, wide_i, wide = u.detach().double(), i.detach().double(), weight.double()[:, None]
    wanted = (
        (wide_u[user] * wide_i[item]).sum(1),
        torch.zeros_like(wide_u).index_add_(0, user, wide * wide_i[item]),
        torch.zeros_like(wide_i).index_add_(0, item, wide * wide_u[user]),
    )
    assert u.grad is not None
    assert i.grad is not None
    found = scores.detach(), u.grad, i.grad
    errors = [
        float((mine.double() - exact).norm() / exact.norm())
        for mine, exact in zip(found, wanted, strict=True)
    ]
    assert max(errors) < 1e-5, errors

    def ours() -> None:
        u.grad = i.grad = None
        pair_scores(u, i, pattern).backward(weight)

    def gathered() -> None:
        u.grad = i.grad = None
        (u[user] * i[item]).sum(1).backward(weight)

    return (
        f"error {max(errors):.0e}; {1e3 * seconds(ours, on):.3f} ms, gathered "
        f"{1e3 * seconds(gathered, on):.3f} ms; reads {3 * count * width * 4 / 2**20:.0f} MiB"
    )


def half_step(rows: int, columns: int, entries: int, on: torch.device) -> str:
    """A factorization's gradient by the kernel of this device, by cuSPARSE, and their floor."""
    width = 96
    crow = torch.linspace(0, entries, rows + 1, dtype=torch.float64).long().int().to(on)
    col = torch.randint(0, columns, (entries,), device=on, dtype=torch.int32)
    mine, others = (torch.randn(n, width, device=on) * 0.1 for n in (rows, columns))
    bias, of_others = torch.zeros((), device=on), torch.zeros(columns, device=on)
    into, pattern = torch.zeros(rows, width, device=on), Pattern(crow, col)
    kernel = kernel_for(entries, on, Lanes())
    told = []
    kernels: dict[str, Any] = {type(kernel).__name__: kernel, "torch": torch_gradient}
    for name, each in kernels.items():

        def run(each: Any = each) -> None:
            each(pattern, 1.0, mine, others, of_others, bias, into)

        into.zero_()
        run()
        row = rows // 2
        at = others[col[crow[row] : crow[row + 1]].long()].double()
        exact = (torch.sigmoid(at @ mine[row].double()) - 1.0) @ at
        assert (into[row].double() - exact).norm() / exact.norm() < 1e-4, name
        taken = seconds(run, on, 3)
        read = 2 * entries * width * 4 / taken / 1e9
        told.append(f"{name} {1e3 * taken:.1f} ms, {read:.0f} GB/s of rows read")
    ones = torch.ones(entries, device=on)
    for name, work in (
        ("weighted sums", lambda: weighted_sums(crow, col, ones, others)),
        ("CSR product", lambda: csr_matrix(crow, col, ones, columns) @ others),
    ):
        told.append(f"{name} {1e3 * seconds(work, on, 3):.1f} ms")
    return "; ".join(told)


def ranking(users: int, items: int, on: torch.device) -> str:
    """Ranks of held-out items among all; checked by float64 where that fits."""
    draw = torch.Generator().manual_seed(2)
    user, item = (torch.randn(n, 64, generator=draw).to(on) for n in (users, items))
    nothing = UserItems(np.zeros(users + 1, np.int64), np.zeros(0, np.int32))
    held_out = np.random.default_rng(0).integers(0, items, users)
    held_out_ranks(user, item, held_out, nothing)
    started = time.perf_counter()
    ranks = held_out_ranks(user, item, held_out, nothing)
    taken = time.perf_counter() - started
    told = f"{users / taken:,.0f} users/s"
    if users * items < 10**8:
        scores = user.double() @ item.double().t()
        own = scores.gather(1, torch.from_numpy(held_out).to(on)[:, None])
        np.testing.assert_array_equal(ranks, (scores >= own).sum(1).cpu().numpy())
        told += ", as float64 ranks them"
    return told


def main() -> None:
    on, checks = device(), Checks()
    small = 1 if on.type == "cuda" else 50
    for users, items, count, width in STEPS:
        sizes = users // small, items // small, count // small
        name = f"pairs of a step: {sizes[0]:,} x {sizes[1]:,}, {sizes[2]:,} pairs, {width} wide"
        checks.run(name, _later(pairs, *sizes, width, on))
    for rows, columns, entries in HALF_STEPS:
        sizes = rows // small**2, columns // small**2, entries // small**2
        name = f"half-step of MF: {sizes[0]:,} x {sizes[1]:,}, {sizes[2]:,} entries"
        checks.run(name, _later(half_step, *sizes, on))
    for users, items in RANKINGS:
        users, items = users // small, items // small
        checks.run(f"ranking: {users:,} x {items:,}", _later(ranking, users, items, on))
    checks.end()


def _later(work: Callable[..., str], *given: Any) -> Callable[[], str]:
    return lambda: work(*given)


if __name__ == "__main__":
    main()
