"""The random numbers of `cadc_rec.data.randomness`, drawn on any device, to the bit.

A word of the sequence depends on its place alone, so that a device makes millions of them at once:
NumPy's Philox-4x64 in torch's integer operations. These are 250 launches however many words there
are; so draw for many steps at a time.
"""

from __future__ import annotations

import torch

from cadc_rec.data.randomness import MOST_BY_HALVES, Key, bit_generator

_ROUNDS = 10
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)  # Salmon et al. 2011, as in NumPy
_STEPS_OF_KEY = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_WORDS = 4  # of a counter
_LOW = 0xFFFFFFFF


def integers(key: Key, start: int, count: int, below: int, device: torch.device) -> torch.Tensor:
    """`positional_integers` on a device: int64 ``[count]`` over ``[0, below)``."""
    if below <= MOST_BY_HALVES:
        words = _words(key, start // 2, start % 2 + count + 1, 2, device)
        halves = words.view(torch.int32)[start % 2 :][:count].long() & _LOW
        return (halves * below) >> 32
    return (fractions(key, start, count, device) * below).long()


def fractions(key: Key, start: int, count: int, device: torch.device) -> torch.Tensor:
    """`positional_fractions` on a device: float64 ``[count]`` over ``[0, 1)``."""
    words = _words(key, start, count, 1, device)
    return _right(words, 11).double() * 2.0**-53


def _words(key: Key, start: int, numbers: int, of_word: int, device: torch.device) -> torch.Tensor:
    """Words from number `start` on, enough for so many numbers; int64 with the bits of uint64."""
    words = -(-numbers // of_word)
    first, skipped = divmod(start, _WORDS)
    counters = -(-(skipped + words) // _WORDS)
    low, high = (int(part) for part in bit_generator(key).state["state"]["key"])
    # A generator moves to its next counter before it draws: the first is 1.
    places = torch.arange(1 + first, 1 + first + counters, device=device)
    # Rows: what is multiplied (words 0 and 2 of a counter), and what is not (words 1 and 3).
    even = torch.stack([places, torch.zeros_like(places)])
    odd = torch.zeros_like(even)
    multipliers = _column(_MULTIPLIERS, device)
    for _ in range(_ROUNDS):
        # With the halves of both products crosswise, as `flip` puts them.
        upper, lower = _product(even, multipliers)
        even = upper.flip(0) ^ odd ^ _column((low, high), device)
        odd = lower.flip(0)
        low, high = (low + _STEPS_OF_KEY[0]) % 2**64, (high + _STEPS_OF_KEY[1]) % 2**64
    in_order = torch.stack([even, odd], 1).reshape(_WORDS, counters).t().flatten()
    return in_order[skipped:][:words]


def _product(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Upper and lower 64 bits of products of unsigned numbers, of which int64 has the lower."""
    a_low, a_high, b_low, b_high = a & _LOW, _right(a, 32), b & _LOW, _right(b, 32)
    crosses = a_low * b_high, a_high * b_low
    middle = _right(a_low * b_low, 32) + (crosses[0] & _LOW) + (crosses[1] & _LOW)
    upper = a_high * b_high + _right(crosses[0], 32) + _right(crosses[1], 32) + (middle >> 32)
    return upper, a * b


def _right(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Move right as unsigned numbers: zeros come in from the left."""
    return (words >> bits) & (2 ** (64 - bits) - 1)


def _column(pair: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Two unsigned numbers as an int64 column, written without a copy from the host."""
    column = torch.empty(2, 1, dtype=torch.int64, device=device)
    for row, number in zip(column, pair, strict=True):
        row.fill_(number - 2**64 if number >= 2**63 else number)
    return column
