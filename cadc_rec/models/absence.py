"""Training without some ids: in each step a share of users and items stands without its id part.

A tower then learns to speak for ids that it has no row of. What stands in the id's place is zeros:
the first layer adds nothing for it, as it adds nothing for an id that an exported module is not
given. A learned vector would only be one more bias of that layer.

Whether an id is absent depends on the seed, the side, the step and the id. So a step is the same
whatever rank computes it, in a training that was resumed as in one that was not.
"""

from __future__ import annotations

import torch

from cadc_rec.data.randomness import Purpose, bit_generator

_SIDES = {"user": 0, "item": 1}
_BITS = 24
_GOLDEN, _MIX = 0x9E3779B97F4A7C15, ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


class ColdDropout:
    """Draws who is absent.

    Args:
        rate: share of the ids of a step, in ``[0, 1)``.
        seed: of the draws.
        device: where ids are.
    """

    def __init__(self, rate: float, seed: int, device: torch.device | None = None) -> None:
        self.rate, self.seed = rate, seed
        # On the device and always the same tensors, so that a recorded step reads the new words.
        self._words = {side: torch.zeros((), dtype=torch.int64, device=device) for side in _SIDES}
        self.begin(0)

    def begin(self, step: int) -> None:
        """Go to step number `step` of the whole training."""
        keys = [(self.seed, Purpose.COLD_DROPOUT, side, step) for side in _SIDES.values()]
        for word, key in zip(self._words.values(), keys, strict=True):
            word.fill_(_signed(int(bit_generator(key).random_raw())))

    def present(self, side: str, ids: torch.Tensor) -> torch.Tensor:
        """1.0 where an id is there and 0.0 where it is absent, float32 ``[n, 1]``.

        Args:
            side: ``user`` or ``item``.
            ids: int64 ``[n]``.
        """
        # SplitMix64: the id is the counter, the step's word where the sequence starts.
        x = (ids.long() + 1) * _signed(_GOLDEN) + self._words[side]
        for shift, factor in _MIX:
            x = (x ^ _shifted(x, shift)) * _signed(factor)
        drawn = _shifted(x ^ _shifted(x, 31), 64 - _BITS)
        return (drawn >= round(self.rate * 2**_BITS)).to(torch.float32)[:, None]


def _signed(word: int) -> int:
    """The 64-bit word as torch's int64 holds it; its products wrap around as unsigned ones do."""
    return word - 2**64 if word >= 2**63 else word


def _shifted(x: torch.Tensor, places: int) -> torch.Tensor:
    """`x` moved to the right, zeros coming in."""
    return (x >> places) & (2 ** (64 - places) - 1)
