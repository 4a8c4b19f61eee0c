"""How far each interaction would still move the cheap model: the norm of its loss's gradient.

In: the pre-trained tables, and pairs of a user and an item. Out: a norm for each pair, taken as an
interaction. This is the GraNd score of Paul, Ganguli and Dziugaite (2021, "Deep Learning on a Data
Diet"), of the vectors that the pair reads, in the model that was pre-trained on all rows:

- MF: the loss of an interaction is ``-log sigma(s)``, s with the global bias;
- ALS: it is ``(1 - s)^2 / 2``; confidences are left out, since they weigh rows by their age.

The derivative by the score (the EL2N score of the paper) is ``sigma(s) - 1`` or ``s - 1``. The
gradient by either vector is that times the other vector, and by either bias that alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cadc_rec.pretrain.id_tables import IdTables


@dataclass(frozen=True)
class GradientNorms:
    """Gives the norms of pairs.

    Attributes:
        ids: the tables; those of MF have their bias last and are as they were learned.
        global_bias: of MF; 0 of ALS.
        divided_by: what the tables of users and of items were divided by after learning.
    """

    ids: IdTables
    global_bias: float = 0.0
    divided_by: tuple[float, float] = (1.0, 1.0)

    def __call__(self, user: NDArray[np.int32], item: NDArray[np.int32]) -> NDArray[np.float32]:
        """The norm of each pair of these users and items, float32 ``[pairs]``."""
        both = self.ids.of_pairs(user, item)
        by_user, by_item = (np.float32(number) for number in self.divided_by)
        scores = np.einsum("nd,nd->n", *both) * (by_user * by_item)
        squares = sum(
            np.einsum("nd,nd->n", vectors, vectors) * number**2
            for vectors, number in zip(both, (by_user, by_item), strict=True)
        )
        if not self.ids.bias_last:
            return np.abs(1 - scores) * np.sqrt(squares)
        # (p, a, 1) . (q, 1, c): the derivatives by p and a are q and 1, by q and c p and 1.
        biases = both[0][:, -2] ** 2 + both[1][:, -1] ** 2
        return expit(-(scores + np.float32(self.global_bias))) * np.sqrt(squares - biases)
