"""SASRec in plain PyTorch, and its quality after so many CPU seconds of training.

Self-attentive sequential recommendation (Kang and McAuley, 2018): a causal transformer over a
user's items in order, which says at each place what comes next. The loss is a softmax over the
next item and uniform negatives that all places of a step share, which later papers found to be
much better than the binary cross-entropy of 2018.

In: a prepared dataset. Out: points of its curve, ranked as `cadc_rec.evaluation` ranks all models.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from cadc_rec.data.dataset import NO_ITEM, Dataset
from cadc_rec.data.user_items import UserItems
from cadc_rec.evaluation.metrics import ranking_metrics
from cadc_rec.evaluation.ranking import held_out_ranks
from cadc_rec.machine import keep_freed_memory

_USERS_AT_ONCE = 512  # in ranking
_SORTED_TOGETHER = 16  # batches
KS = (10,)


@dataclass(frozen=True)
class Settings:
    """SASRec's settings; `length` is the number of items of a history."""

    length: int = 50
    blocks: int = 2
    width: int = 64
    heads: int = 1
    dropout: float = 0.2
    learning_rate: float = 1e-3
    batch: int = 128
    negatives: int = 1024


@dataclass(frozen=True)
class Reached:
    """A point of the curve: metrics are fractions, such as ``hr@10``."""

    cpu_seconds: float
    epochs: float
    validation: dict[str, float]
    test: dict[str, float]


class Block(nn.Module):
    """Causal self-attention, then two layers at each place; both normalized first and added."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        width = settings.width
        self.heads, self.dropout = settings.heads, settings.dropout
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.joint, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.places = nn.Sequential(
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(width, width),
            nn.Dropout(settings.dropout),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, length, width]`` to the same."""
        batch, length, width = x.shape
        joint = self.joint(self.norms[0](x)).view(batch, length, 3, self.heads, -1)
        query, key, value = joint.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True
        )
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        found: torch.Tensor = x + self.places(self.norms[1](x))
        return found


class SASRec(nn.Module):
    """A vector at each place of a history; its dot products with `items` score what comes next."""

    def __init__(self, n_items: int, settings: Settings) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items, settings.width)
        self.order = nn.Embedding(settings.length, settings.width)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList([Block(settings) for _ in range(settings.blocks)])
        self.norm = nn.LayerNorm(settings.width)
        for table in (self.items, self.order):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """``[batch, length, width]`` of histories ``[batch, length]``, the earliest item first.

        A history that is shorter ends with `NO_ITEM`. What comes later has no say in what stands
        before it, so these places need no mask; their own vectors mean nothing.
        """
        width = self.items.weight.shape[1]
        x = self.items(items.clamp_min(0)) * math.sqrt(width) + self.order.weight[: items.shape[1]]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        found: torch.Tensor = self.norm(x)
        return found


def shared_softmax(
    vectors: torch.Tensor, targets: torch.Tensor, negatives: torch.Tensor, items: nn.Embedding
) -> torch.Tensor:
    """Summed cross-entropy of each target among itself and the negatives that are not it.

    Args:
        vectors: ``[places, width]``.
        targets: the next item of each place, ``[places]``.
        negatives: ``[n]``, all different, the same for all places.
        items: the vectors of the items.
    """
    n = len(negatives)
    # One column more, for the targets: scores are the largest array, and are written just once.
    scores = vectors @ items(torch.cat([negatives, negatives[:1]])).t()
    column = torch.full((items.num_embeddings,), n)
    column[negatives] = torch.arange(n)
    place = torch.arange(len(targets))
    scores[place, column[targets]] = -torch.inf
    scores[:, n] = (vectors * items(targets)).sum(1)
    return functional.cross_entropy(scores, torch.full_like(targets, n), reduction="sum")


def earliest_first(latest_first: NDArray[np.int32]) -> NDArray[np.int32]:
    """Histories ``[users, length]`` turned round; `NO_ITEM` still stands at their ends."""
    count = (latest_first != NO_ITEM).sum(1)
    place = count[:, None] - 1 - np.arange(latest_first.shape[1])
    turned = np.take_along_axis(latest_first, np.maximum(place, 0), 1)
    return np.where(place >= 0, turned, np.int32(NO_ITEM))


def user_vectors(model: SASRec, histories: NDArray[np.int32]) -> torch.Tensor:
    """``[users, width]``: the vectors at the last items of histories, the earliest first."""
    ends = torch.from_numpy(np.maximum((histories != NO_ITEM).sum(1) - 1, 0))
    model.eval()
    found = []
    with torch.no_grad():
        for part, end in zip(
            torch.from_numpy(histories).split(_USERS_AT_ONCE),
            ends.split(_USERS_AT_ONCE),
            strict=True,
        ):
            longest = int(end.max()) + 1
            found.append(model(part[:, :longest].long())[torch.arange(len(part)), end])
    model.train()
    return torch.cat(found)


def metrics(
    model: SASRec, dataset: Dataset, length: int, sample: NDArray[np.int64] | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Of the validation and the test items, each over all items that its user has not taken.

    Args:
        model: whose scores rank.
        dataset: the validation item ends the history when the test item is ranked.
        length: of a history.
        sample: the users whose validation items are ranked; None for all.
    """
    known = UserItems(dataset.user_indptr, dataset.train_item)
    everybody = np.arange(dataset.n_users)
    found = []
    for with_validation, targets, users in (
        (False, dataset.val_item, everybody if sample is None else sample),
        (True, dataset.test_item, everybody),
    ):
        excluded = known.and_one_each(dataset.val_item) if with_validation else known
        histories = earliest_first(dataset.last_items(length, with_validation)[users])
        mine = targets[users]
        ranks = held_out_ranks(
            user_vectors(model, histories),
            model.items.weight.detach(),
            mine,
            excluded.some(users),
        )
        found.append(ranking_metrics(ranks[mine >= 0], KS))
    return found[0], found[1]


def batches(lengths: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Rows of an epoch's batches: random ones of nearly the same length, so few places are empty.

    Args:
        lengths: of each row's sequence.
        size: rows of a batch.
    """
    found: list[torch.Tensor] = []
    for part in torch.randperm(len(lengths)).split(size * _SORTED_TOGETHER):
        found += part[lengths[part].argsort()].split(size)
    return [found[place] for place in torch.randperm(len(found)).tolist()]


def curve(
    dataset: Dataset,
    settings: Settings,
    seed: int,
    checkpoints: Sequence[float],
    sample: NDArray[np.int64] | None,
    clock: Callable[[], float] = time.process_time,
) -> Iterator[Reached]:
    """Train on all of D_full; yield what is reached at each checkpoint.

    Args:
        dataset: a user's last ``length + 1`` training items are one sequence.
        settings: SASRec's.
        seed: of the initial weights, the order, the negatives and dropout.
        checkpoints: CPU seconds of this process spent in training steps, ascending.
        sample: see `metrics`.
        clock: of these seconds.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    keep_freed_memory()  # as our own training does
    model = SASRec(dataset.n_items, settings)
    optimizer = torch.optim.Adam(model.parameters(), settings.learning_rate, fused=True)
    sequences = torch.from_numpy(earliest_first(dataset.last_items(settings.length + 1, False)))
    sequences = sequences[sequences[:, 1] >= 0]  # one item has nothing that follows
    lengths = (sequences >= 0).sum(1)
    # A place weighs the same in a batch of short histories as in one of long ones.
    usual = settings.batch * float((lengths - 1).float().mean())
    negatives = min(settings.negatives, dataset.n_items)

    def step(rows: torch.Tensor) -> None:
        batch = sequences[rows, : int(lengths[rows].max())].long()
        targets = batch[:, 1:]
        real = targets >= 0
        vectors = model(batch[:, :-1])[real]
        drawn = torch.randperm(dataset.n_items)[:negatives]
        loss = shared_softmax(vectors, targets[real], drawn, model.items) / usual
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    left, spent, epochs = list(checkpoints), 0.0, 0.0
    while True:
        for rows in batches(lengths, settings.batch):
            started = clock()
            step(rows)
            spent += clock() - started
            epochs += len(rows) / len(sequences)
            if spent >= left[0]:
                left.pop(0)
                yield Reached(spent, epochs, *metrics(model, dataset, settings.length, sample))
            if not left:
                return
