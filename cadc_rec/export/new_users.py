"""Vectors of users that no table has a row of, from their attributes and what they took.

In: attributes of new users and their histories. Out: a vector each. The user tower reads both. What
stands for the user's row is that of `cadc_rec.export.newcomers`, where histories are read, and else
the mean of all users' rows (nothing, if ids were left out in training). A model whose tower reads
no attributes of users, or that has no towers, goes by the history alone.

A bundle holds all that this takes, so that nothing of a run is needed to embed a new user.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from cadc_rec.data.dataset import Attribute, known_to_towers
from cadc_rec.data.dense import DenseAttribute, side_by_side
from cadc_rec.errors import CadcError
from cadc_rec.export.new_items import GivenFeatures, code_widths
from cadc_rec.export.newcomers import HistoryNewcomer
from cadc_rec.export.programs import Program
from cadc_rec.export.trained import TrainedModel
from cadc_rec.models.prior import HistoryPrior
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.programs import load_program
from cadc_rec.serving.predict.cold_items import given_codes


class NewUserProgram(nn.Module):
    """Codes of attributes, and histories, to vectors.

    Args:
        trained: towers that read a history.
        fold: see `HistoryNewcomer`.
        widths: places of each attribute's codes.
        latest: whether vectors end with a one, for what was taken just before.
    """

    row: torch.Tensor

    def __init__(
        self,
        trained: TrainedModel,
        fold: HistoryPrior | None,
        widths: Sequence[int],
        latest: bool = False,
    ) -> None:
        super().__init__()
        self.newcomer = HistoryNewcomer(trained, fold)
        self.given = GivenFeatures(trained.user, widths)
        row = torch.cat([table.weight.mean(0) for table in trained.user.ids])
        alone = not trained.history_length and not trained.model.leaves_ids_out
        self.register_buffer("row", row if alone else torch.zeros_like(row))
        self.asked, self.latest = len(trained.request), latest

    def forward(
        self, history: torch.Tensor, codes: torch.Tensor, dense: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Vectors ``[n, d]``; of the moment of a request nothing is known.

        Args:
            history: int64 ``[n, L]``, items, the latest first, -1 where they have ended.
            codes: int64 ``[n, sum of widths]``, -1 where a user has no more.
            dense: float32 ``[n, some]``, vectors and numbers side by side, where any are read.
        """
        newcomer = self.newcomer
        items, sources, known = newcomer.histories(history)
        if newcomer.fold is None:
            rows = self.row.expand(codes.shape[0], -1)
        else:
            rows = newcomer.fold.folded(items, known)
        asked = (codes.new_zeros(codes.shape[0], self.asked),) if self.asked else ()
        features = self.given(codes, dense)
        vectors: torch.Tensor = newcomer.vectors(rows, features, items, sources, known, *asked)
        if self.latest:
            vectors = torch.cat([vectors, vectors.new_ones(vectors.shape[0], 1)], 1)
        return vectors


class PlainNewUserProgram(nn.Module):
    """`NewUserProgram` of a model without histories."""

    def __init__(self, program: NewUserProgram) -> None:
        super().__init__()
        self.program = program

    def forward(self, codes: torch.Tensor, dense: torch.Tensor | None = None) -> torch.Tensor:
        """Vectors ``[n, d]``; see `NewUserProgram`."""
        vectors: torch.Tensor = self.program(codes[:, :0], codes, dense)
        return vectors


def new_user_program(
    trained: TrainedModel | None,
    fold: HistoryPrior | None,
    attributes: Sequence[Attribute],
    latest: bool,
) -> Program | None:
    """What gives vectors by attributes; None of a model that reads no attributes of users.

    Args:
        trained: the towers.
        fold: what stands in for a user's row, see `HistoryNewcomer`.
        attributes: of every user.
        latest: whether the last element of a vector is what was taken just before.
    """
    if trained is None or not (trained.user.features or trained.user.layers is not None):
        return None
    made = NewUserProgram(trained, fold, code_widths(trained.user.features, attributes), latest)
    module: nn.Module = made if trained.history_length else PlainNewUserProgram(made)
    inputs = made.given.inputs
    if trained.history_length:
        inputs = {"history": (trained.history_length,), **inputs}
    return Program(module.eval().requires_grad_(False), inputs, floats=("dense",))


@dataclass(frozen=True)
class NewUsers:
    """What gives vectors to new users.

    Attributes:
        program: takes what `inputs` names, in this order.
        inputs: ``history``, ``codes``, ``dense`` or ``request``, and their widths.
        widths: places of each attribute's codes.
    """

    program: Callable[..., torch.Tensor]
    inputs: dict[str, int]
    widths: Sequence[int]

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> NewUsers:
        """By what a bundle holds.

        Raises:
            CadcError: it was exported before new users could be embedded.
        """
        model = bundle.model()
        made = model.get("new_users")
        if made is None:
            raise CadcError(f"{bundle.path}: cannot embed new users; export it anew.")
        name = "new_user" if "new_user" in model["programs"] else "newcomer"
        described = model["programs"][name]["inputs"]
        inputs = {given["name"]: int(given["shape"][1]) for given in described}
        return cls(load_program(bundle, name), inputs, made["codes"])

    @classmethod
    def of_programs(cls, new_user: Program | None, newcomer: Program) -> NewUsers:
        """By the programs of a bundle before they are exported."""
        program = newcomer if new_user is None else new_user
        inputs = {name: shape[0] for name, shape in program.inputs.items()}
        return cls(program.module, inputs, widths_of(new_user))

    @property
    def by_attributes(self) -> bool:
        """Whether attributes are read."""
        return "codes" in self.inputs

    @property
    def by_history(self) -> bool:
        """Whether a history is read."""
        return "history" in self.inputs

    def vectors_of(
        self,
        new: Sequence[Attribute],
        dense: Sequence[DenseAttribute],
        histories: Sequence[NDArray[np.int64]],
    ) -> NDArray[np.float32]:
        """Vectors of new users, float32 ``[n, d]``; a vector depends on its own user alone.

        Args:
            new: their attributes, in the order of the known users'.
            dense: their vectors and numbers, likewise.
            histories: of each user, the items' row numbers, the latest first; may be empty.

        Raises:
            CadcError: a user has more values of an attribute than there are places for.
        """
        count = len(histories)
        given: list[torch.Tensor] = []
        for name, width in self.inputs.items():
            if name == "history":
                read = np.full((count, width), -1, np.int64)
                for row, history in zip(read, histories, strict=True):
                    row[: len(history)] = history[:width]
                given.append(torch.from_numpy(read))
            elif name == "codes":
                known = [known_to_towers(attribute) for attribute in new]
                given.append(given_codes(known, self.widths, count, "user"))
            elif name == "dense":
                rows = side_by_side(dense)
                assert rows is not None
                given.append(torch.from_numpy(rows))
            else:  # of the moment of a request nothing is known
                given.append(torch.zeros(count, width, dtype=torch.int64))
        with torch.inference_mode():
            vectors: NDArray[np.float32] = self.program(*given).float().numpy()
        return vectors


def histories_of(
    users: pa.Array, log: pa.Table | None, items: Sequence[int | str]
) -> tuple[list[NDArray[np.int64]], int]:
    """What each user took, as row numbers of items, the latest first; and how many rows are lost.

    Args:
        users: original ids.
        log: ``user_id`` and ``item_id``, the earliest first; rows of other users are passed over,
            those of unknown items counted. None: nobody took anything.
        items: original ids of the items, by row number.
    """
    row_of = {item: row for row, item in enumerate(items)}
    found: dict[Any, list[int]] = {user: [] for user in users.to_pylist()}
    unknown = 0
    taken = {} if log is None else log.to_pydict()
    for user, item in zip(taken.get("user_id", ()), taken.get("item_id", ()), strict=True):
        if user in found:
            row = row_of.get(item, -1)
            unknown += row < 0
            found[user] += [row] * (row >= 0)
    lists = [np.array(found[user][::-1], np.int64) for user in users.to_pylist()]
    return lists, unknown


def widths_of(program: Program | None) -> list[int]:
    """Places of each attribute's codes that a new user's program has."""
    if program is None:
        return []
    made = next(m for m in program.module.modules() if isinstance(m, GivenFeatures))
    return made.widths
