"""The two towers apart from their lookups: rows of tables in, vectors out.

Every exported form looks up in its own way (plain tensors, quantized TorchRec collections) and
then calls these. The layers are those of training.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from cadc_rec.export.trained import TrainedModel
from cadc_rec.models.history import sequence_means
from cadc_rec.models.id_embedding import HybridIds
from cadc_rec.models.tower import Tower


class DenseQuery(nn.Module):
    """The user side.

    Args:
        trained: whose layers are used.
    """

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        model = trained.model
        self.tower, self.windows, self.prior = _layers(model.user), model.windows, model.prior
        self.with_features = bool(trained.user.features)
        self.with_sources = trained.sources is not None
        self.factors: torch.Tensor | None = None
        if model.prior_log_factors is not None:
            self.factors = model.prior_log_factors.detach().exp()

    def forward(
        self,
        rows: torch.Tensor,
        features: torch.Tensor,
        items: torch.Tensor,
        sources: torch.Tensor,
        known: torch.Tensor,
    ) -> torch.Tensor:
        """Vectors ``[n, d]``.

        Args:
            rows: ``[n, id width]``, of the users' id tables; zeros for an unknown user.
            features: ``[n, width]``, of their attributes; width 0 where there are none.
            items: ``[n, L, dim]``, item vectors of the histories, the latest first, zeros where
                they have ended; without a history L is 0.
            sources: ``[n, L, e]``, likewise as what came before; e is 0 without transitions.
            known: bool ``[n, L]``, where the histories have not ended.
        """
        context = sequence_means(items, known, self.windows) if self.windows else []
        if self.windows and self.with_sources:
            context += sequence_means(sources, known, self.windows)
        side = features if self.with_features else None
        learned, fixed = self.tower.parts_of(self.tower.ids.of_rows(rows), side, context)
        parts = [learned] if fixed is None else [learned, fixed]
        if self.prior is not None:
            assert self.factors is not None
            parts.append(self.factors[0] * self.prior.folded(items, known))
            if self.with_sources:
                parts.append(self.factors[1] * self.prior.led(sources, known))
        return torch.cat(parts, 1)


class DenseItem(nn.Module):
    """The item side.

    Args:
        trained: whose layers are used.
    """

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.tower = _layers(trained.model.item)
        self.with_features = bool(trained.item.features)
        self.with_targets = trained.targets is not None
        self.with_prior = trained.model.prior is not None
        self.frozen_width = trained.item.ids[0].weight.shape[1]

    def forward(
        self, rows: torch.Tensor, features: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Vectors ``[n, d]``.

        Args:
            rows: ``[n, id width]``, of the items' id tables.
            features: ``[n, width]``, of their attributes; width 0 where there are none.
            targets: ``[n, e]``, the items as what came after; e is 0 without transitions.
        """
        lead_ins = [targets] if self.with_targets else []
        side = features if self.with_features else None
        learned, fixed = self.tower.parts_of(self.tower.ids.of_rows(rows), side, lead_ins)
        parts = [learned] if fixed is None else [learned, fixed]
        if self.with_prior:
            parts += [rows[:, : self.frozen_width], *lead_ins]
        return torch.cat(parts, 1)


def _layers(tower: Tower) -> Tower:
    """A copy of the tower without its tables, which are on the meta device."""
    layers = copy.deepcopy(tower)
    del layers.ids.table
    if isinstance(layers.ids, HybridIds):
        del layers.ids.free
    layers.features = None
    return layers
