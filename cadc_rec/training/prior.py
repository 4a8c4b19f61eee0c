"""The prior of an experiment: made from its frozen tables, scaled on a few histories."""

from __future__ import annotations

import torch

from cadc_rec.config.experiment import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.models.prior import HistoryPrior, even_factors
from cadc_rec.pretrain.id_tables import Pretrained

_SAMPLE = 1000  # users whose histories set the first factors
_CHUNK = 1024  # histories at once: each looks dozens of vectors up


def prior_of(
    experiment: Experiment, dataset: Dataset, pretrained: Pretrained
) -> tuple[HistoryPrior | None, list[float]]:
    """What the frozen tables say of histories, and the factors to start from."""
    if not experiment.prior.use:
        return None, []
    assert pretrained.ids is not None
    prior = HistoryPrior.of(pretrained.ids.item, experiment.prior)
    sample = dataset.last_items(experiment.history.length, with_validation=False)[:_SAMPLE]
    users, items = prior_vectors(prior, pretrained, torch.from_numpy(sample))
    return prior, even_factors(users, items)


def prior_vectors(
    prior: HistoryPrior, pretrained: Pretrained, history: torch.Tensor
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """From whole tables, the vectors of histories ``[n, L]`` and of all items, a pair a score."""
    parts = [_users(prior, pretrained, chunk) for chunk in history.split(_CHUNK)]
    assert pretrained.ids is not None
    items = [pretrained.ids.item]
    if pretrained.transitions is not None:
        items.append(pretrained.transitions.target)
    return [torch.cat(of_score) for of_score in zip(*parts, strict=True)], items


def _users(
    prior: HistoryPrior, pretrained: Pretrained, history: torch.Tensor
) -> list[torch.Tensor]:
    known, ids = history >= 0, history.clamp_min(0).long()

    def sequences(table: torch.Tensor) -> torch.Tensor:
        return table[ids] * known[:, :, None]

    assert pretrained.ids is not None
    users = [prior.folded(sequences(pretrained.ids.item), known)]
    if pretrained.transitions is not None:
        users.append(prior.led(sequences(pretrained.transitions.source), known))
    return users
