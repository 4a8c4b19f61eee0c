"""torch-rechub's DSSM under its own trainer, and its quality after so many CPU seconds.

Two towers over features and a user's history, whose cosine is a logit (Huang et al. 2013, as the
library has it). What feeds the trainer is ours: its own generator keeps every prefix of every
history as a Python list. Each row is one user with one item, as there.

Settings are those of the library's example of DSSM on MovieLens 1M: every feature 16 wide, the mean
of the user's last 50 items in the items' own table, towers 256-128-64 with PReLU, three negatives a
positive, drawn by popularity to the power of 0.75, 4,096 rows a step, binary cross-entropy, Adam
with rate 0.0001. Two things are amended in its favour: a history's empty places are left out of its
mean, and the negatives are drawn anew in each epoch. One thread.

In: a prepared dataset. Out: points of a curve. The history has the validation item when the test
item is ranked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers.peers import peer, quiet
from benchmarks.peers.plain_torch import padded_codes
from benchmarks.peers.rechub import feature
from benchmarks.time_to_quality.contenders import Reached
from benchmarks.time_to_quality.ranked import Scores, Watch, metrics
from cadc_rec.data.dataset import Dataset
from cadc_rec.errors import CadcError
from cadc_rec.machine import keep_freed_memory

Rows = dict[str, torch.Tensor]
"""Every feature by its name: ``[rows]``, or of several values ``[rows, values]``."""
_RANKED_AT_ONCE = 8192
_PADDING = 0  # items are numbered from 1 on here


@dataclass(frozen=True)
class Settings:
    """Of the model and its training; `length` is the number of items of a history."""

    length: int = 50
    width: int = 16
    tower: tuple[int, ...] = (256, 128, 64)
    negatives: int = 3
    batch: int = 4096
    learning_rate: float = 1e-4
    weight_decay: float = 1e-6


class Inputs:
    """The rows that the library's model is given.

    Args:
        dataset: users, items and their attributes.
        settings: `length`.
    """

    def __init__(self, dataset: Dataset, settings: Settings) -> None:
        self.dataset, self.length = dataset, settings.length
        self._codes = {
            f"{side}_{attribute.name}": (attribute.kind, torch.from_numpy(padded_codes(attribute)))
            for side, attributes in (
                ("user", dataset.user_attributes),
                ("item", dataset.item_attributes),
            )
            for attribute in attributes
        }

    def users(self, users: NDArray[np.int64], history: NDArray[np.int32]) -> Rows:
        """Users whose last items are `history` ``[n, length]``, -1 where there was none."""
        rows = self._side("user", torch.from_numpy(users))
        return {**rows, "history": torch.from_numpy(history).long() + 1}

    def items(self, items: NDArray[np.int64]) -> Rows:
        """Items."""
        rows = self._side("item", torch.from_numpy(items))
        return {**rows, "item": rows["item"] + 1}

    def _side(self, side: str, ids: torch.Tensor) -> Rows:
        rows = {side: ids}
        for name, (kind, codes) in self._codes.items():
            if name.startswith(f"{side}_"):
                rows[name] = codes[ids] if kind == "multi" else codes[ids, 0]
        return rows


def build(dataset: Dataset, settings: Settings) -> Any:
    """The library's DSSM.

    Raises:
        MissingPeer: torch-rechub is not installed.
    """
    features = peer("torch_rechub.basic.features")
    width = settings.width
    user = [features.SparseFeature("user", vocab_size=dataset.n_users, embed_dim=width)]
    item = [features.SparseFeature("item", vocab_size=dataset.n_items + 1, embed_dim=width)]
    user += [feature(features, "user", each, width) for each in dataset.user_attributes]
    item += [feature(features, "item", each, width) for each in dataset.item_attributes]
    user.append(
        features.SequenceFeature(
            "history",
            vocab_size=dataset.n_items + 1,
            embed_dim=width,
            pooling="mean",
            shared_with="item",
            padding_idx=_PADDING,
        )
    )
    params = {"dims": list(settings.tower), "activation": "prelu"}
    matching = peer("torch_rechub.models.matching")
    return matching.DSSM(user, item, dict(params), dict(params))


def training_rows(
    dataset: Dataset, inputs: Inputs, settings: Settings, draw: np.random.Generator
) -> Iterator[tuple[Rows, torch.Tensor]]:
    """Batches without end: rows with their labels; positives stand in a new order each epoch."""
    weight = np.cumsum(dataset.item_counts**0.75)
    pairs = 1 + settings.negatives
    size = max(1, settings.batch // pairs)
    if len(dataset.train_item) < 2:
        raise CadcError("there are fewer than two training interactions, and no batch to learn.")
    while True:
        order = draw.permutation(len(dataset.train_item))
        for first in range(0, len(order), size):
            places = order[first : first + size]
            if len(places) == 1:  # batch normalization takes no single row
                continue
            shape = (len(places), settings.negatives)
            drawn = np.searchsorted(weight, draw.random(shape) * weight[-1], side="right")
            items = np.concatenate([dataset.train_item[places, None], drawn], 1)
            repeated = np.repeat(places, pairs)
            history = dataset.history_before(places, settings.length)
            users = dataset.train_user[repeated].astype(np.int64)
            labels = torch.zeros(len(places), pairs)
            labels[:, 0] = 1.0
            rows = inputs.users(users, np.repeat(history, pairs, 0))
            yield {**rows, **inputs.items(items.ravel())}, labels.ravel()


def scores(model: Any, inputs: Inputs) -> Callable[[bool, NDArray[np.int64]], Scores]:
    """What `ranked.metrics` asks for: both towers' vectors, of length one."""
    dataset = inputs.dataset

    def vectors(tower: Any, rows: Callable[[NDArray[np.int64]], Rows], n: int) -> torch.Tensor:
        model.eval()
        with torch.no_grad():
            found = [
                tower(rows(np.arange(first, min(first + _RANKED_AT_ONCE, n))))
                for first in range(0, n, _RANKED_AT_ONCE)
            ]
        model.train()
        return torch.cat(found)

    def of(with_validation: bool, users: NDArray[np.int64]) -> Scores:
        def known(places: NDArray[np.int64]) -> Rows:
            mine = users[places]
            return inputs.users(mine, dataset.last_items(inputs.length, with_validation, mine))

        return Scores(
            vectors(model.user_tower, known, len(users)),
            vectors(model.item_tower, inputs.items, dataset.n_items),
        )

    return of


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
        dataset: what is learned from.
        settings: DSSM's.
        seed: of the initial weights, the order and the drawn items.
        checkpoints: CPU seconds of this process spent in making batches and training, ascending.
        sample: see `ranked.metrics`.
        clock: of these seconds.

    Raises:
        MissingPeer: torch-rechub is not installed.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    keep_freed_memory()  # as our own training does
    inputs = Inputs(dataset, settings)
    model = build(dataset, settings)
    own = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    trainer = peer("torch_rechub.trainers").MatchTrainer(
        model, mode=0, optimizer_params=own, n_epoch=1, device="cpu"
    )
    endless = training_rows(dataset, inputs, settings, np.random.default_rng(seed))
    watch, learned = Watch(clock), 0

    def until(seconds: float) -> Iterator[tuple[Rows, torch.Tensor]]:
        nonlocal learned
        while watch.now() < seconds:
            rows, labels = next(endless)
            learned += int(labels.sum())
            yield rows, labels

    for seconds in checkpoints:
        with quiet(), watch:
            trainer.train_one_epoch(until(seconds))
        epochs = learned / len(dataset.train_item)
        yield Reached(watch.seconds, epochs, *metrics(dataset, sample, scores(model, inputs)))
