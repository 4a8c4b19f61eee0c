"""Random numbers that depend on where they stand in a sequence, not on who draws them.

A sequence is named by a key: the seed, what it is for (`Purpose`), and where (epoch, rank, block).
Several processes that each need a part of one sequence draw their own part directly: the Philox
generator can be moved to any position. Results are then the same for any number of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

import numpy as np

Key = tuple[int, ...]
"""(seed, purpose, place...)."""
MOST_BY_HALVES = 2**20
"""Bound up to which 32-bit draws are enough: two from a word, and twice as fast. The
multiply-and-shift map is uneven by at most the bound / 2**32."""


class Purpose(IntEnum):
    """What a sequence is drawn for; no two share one."""

    MF_INITIALIZATION = 1
    MF_NEGATIVE_ITEMS = 2
    MF_NEGATIVE_USERS = 3
    SELECTION = 4
    EPOCH_ORDER = 5
    NEGATIVES = 6
    TABLE_INITIALIZATION = 7
    BALANCED_SELECTION = 8
    ALS_INITIALIZATION = 9
    TRANSITIONS_INITIALIZATION = 10
    SHARED_NEGATIVES = 11
    INFORMED_SELECTION = 12
    STRATIFIED_SELECTION = 13
    STREAM_ORDER = 14
    PRIOR_FIT = 15
    CENTRES_SELECTION = 16
    REFRESHED_SELECTION = 20
    CHANGED_ROWS_NEGATIVES = 21
    COLD_DROPOUT = 22
    ROWS_OF_DAY = 24
    VALIDATION_USERS = 30


def bit_generator(key: Key) -> np.random.Philox:
    """The generator of the sequence `key`, at its start.

    The rest of the key is a spawn key, apart from the seed's own words: plainly joined, a large
    seed could spell another seed's key.
    """
    return np.random.Philox(np.random.SeedSequence(key[0], spawn_key=key[1:]))


_MOST_OF_A_KIND = 10**9  # NumPy's hypergeometric draw takes fewer than these, on either side
_ROWS = 4096  # rows of a random table made at once
_WORDS_PER_COUNTER = 4  # Philox-4x64 yields four 64-bit words for each value of its counter


def positional_integers(key: Key, start: int, count: int, below: int) -> np.ndarray:
    """Elements ``start .. start + count`` of the uniform sequence of `key` over ``[0, below)``.

    Args:
        key: names the sequence.
        start: position of the first element.
        count: how many.
        below: exclusive upper bound, at most 2**53.

    Returns:
        int64 ``[count]``.
    """
    if below <= 0:
        raise ValueError(f"below must be positive, got {below}")
    if below <= MOST_BY_HALVES:
        drawn = positional_halves(key, start, count).astype(np.uint64)
        drawn *= np.uint64(below)
        drawn >>= np.uint64(32)
        return drawn.view(np.int64)  # below 2**20, so the same numbers
    return (positional_fractions(key, start, count) * below).astype(np.int64)


def positional_halves(key: Key, start: int, count: int) -> np.ndarray:
    """Elements ``start .. start + count`` of the sequence of `key`, two from a word; uint32."""
    generator = bit_generator(key)
    skipped = _move(generator, start // 2) * 2 + start % 2
    return generator.random_raw((skipped + count + 1) // 2).view(np.uint32)[skipped:][:count]


def positional_fractions(key: Key, start: int, count: int) -> np.ndarray:
    """Elements ``start .. start + count`` of the uniform sequence of `key` over ``[0, 1)``.

    Returns:
        float64 ``[count]``, multiples of 2**-53.
    """
    generator = bit_generator(key)
    skipped = _move(generator, start)
    words = generator.random_raw(skipped + count)[skipped:]
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def generator_at(key: Key, word: int) -> np.random.Generator:
    """A generator that goes on from a word of the sequence of `key`."""
    bits = bit_generator(key)
    bits.random_raw(_move(bits, word))
    return np.random.Generator(bits)


def _move(generator: np.random.Philox, word: int) -> int:
    """Move `generator` to the counter that holds `word`; how many words to skip from there."""
    generator.advance(word // _WORDS_PER_COUNTER)
    return word % _WORDS_PER_COUNTER


def normal_blocks(
    key: Key, rows: range, width: int, std: float
) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of a normal table, a few thousand at a time, so that no second table is held.

    A row is the same however the table is cut into shards.

    Args:
        key: names the table.
        rows: which rows.
        width: elements of a row of the whole table.
        std: standard deviation.

    Yields:
        Where they stand among `rows`, and float32 ``[some, width]``.
    """
    for block in range(rows.start // _ROWS, -(-rows.stop // _ROWS) if len(rows) else 0):
        generator = np.random.Generator(bit_generator((*key, block)))
        values = generator.standard_normal((_ROWS, width), dtype=np.float32)
        start, stop = max(rows.start, block * _ROWS), min(rows.stop, (block + 1) * _ROWS)
        part = values[start - block * _ROWS : stop - block * _ROWS]
        yield slice(start - rows.start, stop - rows.start), part * np.float32(std)


def hypergeometric(draw: np.random.Generator, good: int, bad: int, wanted: int) -> int:
    """How many of `wanted` things, drawn without replacement, are good: exact for any numbers.

    Up to NumPy's limit it is NumPy's draw. Beyond it, everything is first drawn by itself, with one
    probability: given how many there are, each set of them is equally likely. What there is too
    much is then taken back, and what lacks is drawn in addition, a few times the square root of
    `wanted`.

    Args:
        draw: the generator; what it yields decides.
        good: how many are good.
        bad: how many are not.
        wanted: at most ``good + bad``.
    """
    if good < _MOST_OF_A_KIND and bad < _MOST_OF_A_KIND:
        return int(draw.hypergeometric(good, bad, wanted))
    share = wanted / (good + bad)
    chosen, others = (int(draw.binomial(number, share)) for number in (good, bad))
    over = chosen + others - wanted
    if over > 0:
        return chosen - _few_of(draw, chosen, chosen + others, over)
    return chosen + _few_of(draw, good - chosen, good + bad - chosen - others, -over)


def hypergeometrics(
    draw: np.random.Generator, good: np.ndarray, bad: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """One draw of `hypergeometric` after another, for integers ``[n]``; int64 ``[n]``."""
    if max(good.max(initial=0), bad.max(initial=0)) < _MOST_OF_A_KIND:
        return draw.hypergeometric(good, bad, wanted)
    each = zip(good.tolist(), bad.tolist(), wanted.tolist(), strict=True)
    return np.array([hypergeometric(draw, *numbers) for numbers in each], np.int64)


def _few_of(draw: np.random.Generator, first: int, total: int, wanted: int) -> int:
    """How many of `wanted` of `total` are among the `first`: each is drawn."""
    return int((draw.choice(total, wanted, replace=False, shuffle=False) < first).sum())
