"""Every item's list as it was counted: once more from what users took, bit for bit.

In: the training interactions and attributes of items, and how the lists were counted. Out: the
lists. Who has a bundle has all of that, so a delta need not bring lists: they change everywhere
every day, since all counts are brought to one mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadc_rec.config.experiment import TransitionsConfig
from cadc_rec.data.content_lists import blended, content_lists
from cadc_rec.data.dataset import Attribute
from cadc_rec.data.settled import Settled
from cadc_rec.data.transition_lists import TransitionLists, best_targets
from cadc_rec.data.transition_matrix import transition_matrix
from cadc_rec.data.user_items import UserItems


@dataclass(frozen=True)
class Taken:
    """Training interactions, as far as transitions read them; see `Dataset`.

    Attributes:
        n_items: number of items.
        train_user: ``[rows]``, ascending.
        train_item: ``[rows]``; a user's in the order of time.
        user_indptr: ``[n_users + 1]``.
    """

    n_items: int
    train_user: NDArray[np.int32]
    train_item: NDArray[np.int32]
    user_indptr: NDArray[np.int64]

    @classmethod
    def of(cls, known: UserItems, held_out: NDArray[np.integer[Any]], n_items: int) -> Taken:
        """What users took, less the latest ones that are held out.

        Args:
            known: of each user in the order of time.
            held_out: ``[n_users]``, how many of each user's are.
            n_items: number of items.

        Raises:
            ValueError: more are held out than there are.
        """
        held_out = held_out.astype(np.int64)
        counts = np.diff(known.indptr)
        left = counts - held_out
        if (held_out < 0).any() or (left < 0).any():
            raise ValueError("more items are held out than users took")
        ends = np.repeat(known.indptr[1:] - held_out, counts)
        items = np.asarray(known.items)[np.arange(len(known.items)) < ends].astype(np.int32)
        users = np.repeat(np.arange(len(left), dtype=np.int32), left)
        return cls(n_items, users, items, np.concatenate([[0], np.cumsum(left)]))


@dataclass(frozen=True)
class Counting:
    """How lists were counted.

    Attributes:
        transitions: window, decay, damping, normalization and targets; None where the lists are
            those of the content alone.
        content: what the content's lists are multiplied by before they are added; 0 without.
    """

    transitions: TransitionsConfig | None
    content: float = 0.0

    def lists(
        self, taken: Taken, attributes: Sequence[Attribute], settled: Settled
    ) -> TransitionLists | None:
        """The lists; None where nothing leads anywhere.

        Args:
            taken: training interactions.
            attributes: of the items.
            settled: rounds the numbers.
        """
        lists = None
        if self.transitions is not None:
            matrix = transition_matrix(taken, self.transitions, rounded=settled)
            lists = best_targets(matrix, self.transitions.targets)
        if not self.content:
            return lists
        content = content_lists(attributes, taken.n_items, settled)
        if lists is None or content is None:
            return content
        return blended(lists, content, self.content)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        how = self.transitions
        names = ("window", "decay", "damping", "normalization", "targets")
        of_transitions = None if how is None else {name: getattr(how, name) for name in names}
        return {"transitions": of_transitions, "content": self.content}

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Counting:
        """What `to_json` returned.

        Raises:
            ValueError: it is none of these.
            TypeError: likewise.
            KeyError: likewise.
        """
        how = values["transitions"]
        transitions = None if how is None else TransitionsConfig(**how, form="lists")
        return cls(transitions, float(values["content"]))
