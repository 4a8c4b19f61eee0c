"""`EntriesGradient` as one Triton kernel, for CUDA: today's sums, and no array of all entries.

A program sums one row's entries in order, so a result does not depend on what runs beside it. The
columns of negatives need not lie in memory: the kernel draws them, the very numbers that
`positional_integers` gives at their places. Triton comes with torch's CUDA builds; this file is
imported where it is there. It was run in Triton's interpreter, not on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from cadc_rec.data.randomness import MOST_BY_HALVES, Key, bit_generator
from cadc_rec.pretrain.kernels import LEAST_PROBABILITY, DrawnPattern, Gradient, Pattern

_ENTRIES = 32  # of a row read at once: with 128 elements each they fill a block's registers
# Philox-4x64 (Salmon and others 2011): its multipliers, and what is added to the key each round.
_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B


# What `triton.jit` compiles takes no types of Python: hence the functions without them.


@triton.jit
def _philox(counter, words):  # type: ignore[no-untyped-def]
    """The four words of Philox-4x64-10 at these counters; `words` holds key and constants."""
    key_0, key_1 = tl.load(words), tl.load(words + 1)
    times_0, times_1 = tl.load(words + 2), tl.load(words + 3)
    weyl_0, weyl_1 = tl.load(words + 4), tl.load(words + 5)
    a = counter
    b = tl.zeros_like(counter)
    c = tl.zeros_like(counter)
    d = tl.zeros_like(counter)
    for _ in tl.static_range(10):
        high_0, low_0 = tl.umulhi(a, times_0 + tl.zeros_like(a)), a * times_0
        high_1, low_1 = tl.umulhi(c, times_1 + tl.zeros_like(c)), c * times_1
        a = high_1 ^ b ^ key_0
        b = low_1
        c = high_0 ^ d ^ key_1
        d = low_0
        key_0 += weyl_0
        key_1 += weyl_1
    return a, b, c, d


@triton.jit
def _drawn(position, words, HALVES: tl.constexpr):  # type: ignore[no-untyped-def]
    """Elements at these positions of the sequence that `words` names; see `_words`."""
    below = tl.load(words + 6)
    word = position // 2 if HALVES else position
    a, b, c, d = _philox((word // 4 + 1).to(tl.uint64), words)
    lane = word % 4
    value = tl.where(lane == 0, a, tl.where(lane == 1, b, tl.where(lane == 2, c, d)))
    if HALVES:
        half = tl.where(position % 2 == 0, value, value >> 32) & 0xFFFFFFFF
        return ((half * below) >> 32).to(tl.int64)
    fraction = (value >> 11).to(tl.int64).to(tl.float64) * (2.0**-53)
    return (fraction * below.to(tl.int64).to(tl.float64)).to(tl.int64)


@triton.jit
def _rows(  # type: ignore[no-untyped-def]
    crow,
    col,
    words,
    mine,
    others,
    other_bias,
    bias,
    into,
    sums,
    width,
    least,
    LABEL: tl.constexpr,
    DRAWN: tl.constexpr,
    HALVES: tl.constexpr,
    LISTED: tl.constexpr,
    ENTRIES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One row: its gradient, and the sums of its entries' errors and losses."""
    row = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(crow + row).to(tl.int64), tl.load(crow + row + 1).to(tl.int64)
    element = tl.arange(0, WIDTH)
    inside = element < width
    own = tl.load(mine + row * width + element, mask=inside, other=0.0)
    constant = tl.load(bias)
    total = tl.zeros([WIDTH], tl.float32)
    errors = tl.zeros([ENTRIES], tl.float32)
    losses = tl.zeros([ENTRIES], tl.float32)
    for at in range(begin, end, ENTRIES):
        entry = at + tl.arange(0, ENTRIES).to(tl.int64)
        there = entry < end
        if DRAWN:
            first = tl.load(words + 7).to(tl.int64)
            index = _drawn(first + entry, words, HALVES)
            if LISTED:
                index = tl.load(col + index, mask=there, other=0).to(tl.int64)
        else:
            index = tl.load(col + entry, mask=there, other=0).to(tl.int64)
        places = index[:, None] * width + element[None, :]
        seen = there[:, None] & inside[None, :]
        vectors = tl.load(others + places, mask=seen, other=0.0)
        score = tl.sum(vectors * own[None, :], 1) + constant
        score += tl.load(other_bias + index, mask=there, other=0.0)
        probability = 1.0 / (1.0 + tl.exp(-score))
        if LABEL:
            loss = tl.log(tl.maximum(probability, least))
            losses -= tl.where(there, loss, 0.0)
            probability -= 1.0
        error = tl.where(there, probability, 0.0)
        errors += error
        total += tl.sum(vectors * error[:, None], 0)
    place = into + row * width + element
    tl.store(place, tl.load(place, mask=inside, other=0.0) + total, mask=inside)
    tl.store(sums + 2 * row, tl.sum(errors, 0))
    tl.store(sums + 2 * row + 1, tl.sum(losses, 0))


class TritonGradient:
    """`EntriesGradient` by one program a row."""

    draws = True

    def __call__(
        self,
        pattern: Pattern | DrawnPattern,
        label: float,
        mine: torch.Tensor,
        others: torch.Tensor,
        other_bias: torch.Tensor,
        bias: torch.Tensor,
        into: torch.Tensor,
    ) -> Gradient:
        """See `EntriesGradient`; negatives may be drawn here, and come as a `DrawnPattern`."""
        rows, width = into.shape
        if not into.is_contiguous():
            raise ValueError("rows that receive a gradient lie one after the other")
        sums = torch.zeros(rows, 2, device=into.device)
        drawn = isinstance(pattern, DrawnPattern)
        column = pattern.values if isinstance(pattern, DrawnPattern) else pattern.col
        words = pattern.crow  # read by nobody
        halves = False
        if isinstance(pattern, DrawnPattern):
            words = _words(pattern.key, pattern.below, pattern.first).to(into.device)
            halves = pattern.below <= MOST_BY_HALVES
        if rows:
            _rows[(rows,)](
                pattern.crow,
                pattern.crow if column is None else column,
                words,
                mine.contiguous(),
                others.contiguous(),
                other_bias.contiguous(),
                bias,
                into,
                sums,
                width,
                LEAST_PROBABILITY,
                LABEL=bool(label),
                DRAWN=drawn,
                HALVES=halves,
                LISTED=drawn and column is not None,
                ENTRIES=_ENTRIES,
                WIDTH=triton.next_power_of_2(width),
            )
        error, loss = sums.sum(0, dtype=torch.float64).to(bias.dtype)
        return Gradient(error, loss)


def _words(key: Key, below: int, first: int) -> torch.Tensor:
    """What the kernel must know to draw: uint64 ``[8]``.

    The generator's key, Philox's constants, the bound, the position of the first entry.
    """
    state: Any = bit_generator(key).state["state"]["key"]
    numbers = [*(int(word) for word in state), *_MULTIPLIERS, *_WEYL, below, first]
    return torch.tensor(numbers, dtype=torch.uint64)
