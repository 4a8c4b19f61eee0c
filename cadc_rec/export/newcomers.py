"""How a user the model has never seen becomes a vector: from the items the user took.

With a history the user tower is asked, the user's own row standing empty, or folded in where rows
are ALS's; a prior alone needs nothing but the history. Any other model has the history folded into
the items' own vectors.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from cadc_rec.config.experiment import HistoryConfig, PriorConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.export.programs import HistoryLookup, Program, request_input
from cadc_rec.export.trained import TrainedModel, UserForward
from cadc_rec.models.prior import HistoryPrior
from cadc_rec.models.rows import TensorRows
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.pretrain.prior_fit import FittedPrior, fitted_tables
from cadc_rec.pretrain.tables_alone import WithConstant

_LENGTH = 50  # items of a newcomer that count, where the model itself has no history


class FoldedNewcomer(nn.Module):
    """Histories to vectors by folding them into the items' own vectors.

    A history's vector is what implicit ALS would give a user of these items if the items' final
    vectors were its item table. It needs nothing of the model but them.

    Args:
        items: ``[n_items, d]``, the vectors that are searched.
        fold: confidences and regularization.
    """

    def __init__(self, items: torch.Tensor, fold: HistoryPrior) -> None:
        super().__init__()
        self.items, self.fold = TensorRows(items), fold

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        """``[n, d]`` of int64 ``[n, L]``, the latest first, -1 where they have ended."""
        return self.fold.folded(self.items.sequences(history), history >= 0)


class HistoryNewcomer(nn.Module):
    """Histories to vectors by the user tower, for a user it has no row and no attributes of.

    Args:
        trained: a model with a history.
        fold: what stands in for the user's row, where user rows are ALS's; None leaves it zero.
    """

    features: torch.Tensor | None

    def __init__(self, trained: TrainedModel, fold: HistoryPrior | None) -> None:
        super().__init__()
        self.histories, self.vectors = HistoryLookup(trained), UserForward(trained.model)
        self.fold = fold
        unknown = [
            torch.zeros(table.weight.shape[1]) if table.mean else table.weight[0]
            for table in trained.user.features
        ]
        if trained.user.layers is not None:  # a row of zeros is missing
            rows = torch.zeros(1, sum(table.weight.shape[1] for table in trained.user.dense))
            unknown.append(trained.user.layers(rows)[0])
        self.register_buffer("features", torch.cat(unknown) if unknown else None)
        self.width = trained.user.id_width

    def forward(self, history: torch.Tensor, request: torch.Tensor | None = None) -> torch.Tensor:
        """``[n, d]`` of int64 ``[n, L]``, the latest first, -1 where they have ended.

        Args:
            history: the items.
            request: int64 ``[n, features]``, codes of the requests' context, where it is read.
        """
        items, sources, known = self.histories(history)
        if self.fold is None:
            rows = items.new_zeros(items.shape[0], self.width)
        else:
            rows = self.fold.folded(items, known)
        features = rows[:, :0]
        if self.features is not None:
            features = self.features.expand(rows.shape[0], -1)
        asked = () if request is None else (request,)
        vectors: torch.Tensor = self.vectors(rows, features, items, sources, known, *asked)
        return vectors


def row_fold(
    fold: PriorConfig, rows_of_als: bool, trained: TrainedModel, pretrained: Pretrained
) -> HistoryPrior | None:
    """What stands in for the row of a user who has a history; None leaves it zero."""
    if trained.history_length and rows_of_als and pretrained.ids is not None:
        table = trained.item.ids[0].weight
        if table.shape[1] == trained.user.id_width:
            return HistoryPrior.of(table, fold)
    return None


def newcomer_program(
    fold: PriorConfig,
    history: HistoryConfig,
    rows_of_als: bool,
    dataset: Dataset,
    trained: TrainedModel | None,
    pretrained: Pretrained,
    items: np.ndarray,
    fitted: FittedPrior | None,
    latest: bool = False,
) -> Program:
    """The program of a bundle that takes histories of unknown users.

    Args:
        fold: how histories are folded in, and whether the model has a prior.
        history: how many items of one the model reads.
        rows_of_als: whether ALS made the user table, so that a row can be folded in.
        dataset: the histories on which a prior's factors were set.
        trained: the towers, where the model has them.
        pretrained: pre-trained vectors, where the model has them.
        items: ``[n_items, d]``, the vectors that are searched.
        fitted: what was chosen of a prior without towers.
        latest: whether the last element of the items' vectors is what was taken just before.
    """
    length = history.length
    if trained is None:
        tables = fitted_tables(fold, history, dataset, pretrained, fitted)
        if tables is not None:
            program = tables.program()
            return Program(
                WithConstant(program, 1.0) if latest else program, {"history": (length,)}
            )
    if trained is None or not trained.history_length:
        vectors = torch.from_numpy(items)
        folded = FoldedNewcomer(vectors, HistoryPrior.of(vectors, fold))
        return Program(folded, {"history": (_LENGTH,)})
    newcomer: nn.Module = HistoryNewcomer(trained, row_fold(fold, rows_of_als, trained, pretrained))
    inputs = {"history": (length,), **request_input(trained)}
    return Program(WithConstant(newcomer, 1.0) if latest else newcomer, inputs)
