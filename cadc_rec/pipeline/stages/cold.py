"""How cold items are ranked for the users who took them: a part of the evaluate stage.

In: what scores users and items, and the held-out interactions of cold items. Out: metrics of
these among the cold items and among all, of the model and of two baselines; and every rank.

In a run with ``data.cold_control`` the same items are known like all others. It ranks the same
rows, for the same users, against the same candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from scipy import sparse

from cadc_rec.data.cold_items import ColdItems
from cadc_rec.data.content import Content
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.user_items import UserItems
from cadc_rec.distributed.processes import Processes
from cadc_rec.evaluation.content_baselines import BASELINES, baseline_ranks
from cadc_rec.evaluation.metrics import rank_gains, ranking_metrics
from cadc_rec.evaluation.ranking import Listed
from cadc_rec.evaluation.sharded import ranks_by_share
from cadc_rec.evaluation.statistics import UserGains, mean_intervals, paired_bootstrap
from cadc_rec.pretrain.likeness import USERS, Likeness, gain, reach
from cadc_rec.training.new_items import new_item_vectors
from cadc_rec.training.scoring import Scoring

RANKS = "cold_ranks.parquet"
_AMONG = ("among_cold", "among_all")
_COMPARED = "ndcg@10"


def measure_cold(
    ks: Sequence[int],
    dataset: Dataset,
    cold: ColdItems,
    scoring: Scoring,
    processes: Processes,
    folder: Path,
) -> dict[str, Any]:
    """Rank the held-out interactions of cold items; write every rank to `folder`.

    Args:
        ks: cut-offs of the metrics.
        dataset: the same that `scoring` is of.
        cold: its cold items.
        scoring: what ranks; towers that were given the attributes of cold items, too.
        processes: the ranks; all have to call it.
        folder: receives ``cold_ranks.parquet`` on rank 0.
    """
    control = int(cold.items.max()) < dataset.n_items
    attributes, dense = dataset.every_item_attributes(), dataset.every_item_dense()
    content = Content.of(attributes, dense, dataset.n_items + dataset.n_untaken, dataset.n_items)
    on_top = OfCold()
    every = processes.all_gather_rows(scoring.items, dataset.n_items)
    if not control:
        vectors = new_item_vectors(
            scoring,
            every,
            content,
            dense,
            scoring.users(True, None),
            processes,
        )
        # Cold items follow the others; behind them are those that nobody took at all.
        every = torch.cat([every, vectors[: len(cold.items)]])
        on_top = OfCold.of(scoring, dataset, len(cold.items), content)
    result: dict[str, Any] = {"items": len(cold.items), "control": control}
    columns: dict[str, list[Any]] = {"user": [], "item": [], "of": []}
    for of, with_validation, targets in (
        ("validation", False, cold.val_item),
        ("test", True, cold.test_item),
    ):
        users = np.flatnonzero(targets >= 0)
        if not len(users):
            continue
        excluded = cold.excluded(dataset, targets)
        ranks = _ranks(
            dataset, cold, scoring, every, on_top, targets, excluded, with_validation, processes
        )
        if not control:
            histories = UserItems(dataset.user_indptr, dataset.train_item)
            candidates = (cold.items.astype(np.int64), np.arange(len(every)))
            sets = dict(zip(_AMONG, candidates, strict=True))
            ranks |= _of_baselines(content, histories, targets, excluded, sets, processes)
        result[of] = {"users": len(users), **_described(ranks, ks)}
        rows = {"user": users, "item": targets[users], "of": np.repeat(of, len(users)), **ranks}
        for name, values in rows.items():
            columns.setdefault(name, []).append(values)
    if processes.rank == 0:
        table = pa.table({name: np.concatenate(parts) for name, parts in columns.items()})
        pq.write_table(table, folder / RANKS)
    return result


@dataclass(frozen=True)
class OfCold:
    """The scores of lists and recent popularity of cold items: of those most like them.

    Attributes:
        likeness: of the cold items; None where they are known.
        by: what their scores are multiplied by, see `cadc_rec.pretrain.likeness`.
    """

    likeness: Likeness | None = None
    by: float = 1.0

    @classmethod
    def of(
        cls,
        scoring: Scoring,
        dataset: Dataset,
        count: int,
        content: Content,
    ) -> OfCold:
        """Of `count` items behind the known ones."""
        of_known = content.part(slice(0, dataset.n_items))
        new = content.part(slice(dataset.n_items, dataset.n_items + count))
        likeness = Likeness.of(of_known, new)
        known = range(dataset.n_items)
        listed, order = scoring.on_top.of_users(dataset, None, True, known)
        if listed is None:
            return cls(likeness)
        users = np.arange(dataset.n_users) if order is None else order
        users = users[dataset.test_item[users] >= 0]  # the others have no time of a request
        users = users[np.unique(np.linspace(0, len(users) - 1, USERS).astype(np.int64))]
        rows, others = Likeness.of_known(of_known)
        scores = listed(users)
        both = (sparse.csr_array(scores[:, rows]), others.of_scores(scores))
        reached = (float(reach(torch.from_numpy(each.toarray()))) for each in both)
        return cls(likeness, gain(*reached))

    def with_others(self, listed: Listed | None) -> Listed | None:
        """Scores on top of all items', the cold ones last."""
        likeness = self.likeness
        if listed is None or likeness is None:
            return listed

        def of_all(users: NDArray[np.int64]) -> sparse.csr_array:
            scores = listed(users)
            of_cold = likeness.of_scores(scores) * np.float32(self.by)
            return sparse.csr_array(sparse.hstack([scores, of_cold], format="csr"))

        return of_all


def _of_baselines(
    content: Content,
    histories: UserItems,
    targets: NDArray[np.int32],
    excluded: UserItems,
    candidates: Mapping[str, NDArray[np.int64]],
    processes: Processes,
) -> dict[str, NDArray[np.int64]]:
    """`baseline_ranks`, of which every rank forms those of its share of the users."""
    users = np.flatnonzero(targets >= 0)
    share = processes.share(len(users))
    mine = users[share.start : share.stop]
    own = np.full_like(targets, -1)
    own[mine] = targets[mine]
    found = baseline_ranks(content, histories, own, excluded, candidates)
    ranks = torch.from_numpy(np.stack(list(found.values()), 1)).to(processes.device)
    every = processes.all_gather_rows(ranks, len(users)).cpu().numpy()
    return dict(zip(found, every.T, strict=True))


def _ranks(
    dataset: Dataset,
    cold: ColdItems,
    scoring: Scoring,
    every: torch.Tensor,
    on_top: OfCold,
    targets: NDArray[np.int32],
    excluded: UserItems,
    with_validation: bool,
    processes: Processes,
) -> dict[str, NDArray[np.int64]]:
    """The model's ranks of the users with a target, among cold items and among all."""
    users = scoring.users(with_validation, None)
    known = range(dataset.n_items)
    listed, order = scoring.on_top.of_users(dataset, None, with_validation, known)
    whole = on_top.with_others(listed)
    place = np.full(len(every), -1, np.int32)
    place[cold.items] = np.arange(len(cold.items))
    of_cold = np.where(targets >= 0, place[targets], targets)
    among = {
        "among_cold": (cold.items.astype(np.int64), of_cold, _only(excluded, place)),
        "among_all": (np.arange(len(every)), targets, excluded),
    }
    found = {}
    for name, (candidates, of, left_out) in among.items():
        share = processes.share(len(candidates))
        mine = candidates[share.start : share.stop]
        found[name] = ranks_by_share(
            users,
            every[torch.from_numpy(mine).to(every.device)],
            of,
            left_out,
            processes,
            len(candidates),
            listed=_columns(whole, mine),
            order=order,
        )[targets >= 0]
    return found


def _columns(listed: Listed | None, items: NDArray[np.int64]) -> Listed | None:
    """Scores on top, of some items alone."""
    if listed is None:
        return None
    return lambda users: sparse.csr_array(listed(users)[:, items])


def _only(taken: UserItems, place: NDArray[np.int32]) -> UserItems:
    """Only the items that have a place, by it."""
    user, item = taken.joined(np.arange(len(taken)))
    kept = place[item] >= 0
    counts = np.bincount(user[kept], minlength=len(taken))
    return UserItems(np.concatenate([[0], np.cumsum(counts)]), place[item[kept]])


def _described(ranks: Mapping[str, NDArray[np.int64]], ks: Sequence[int]) -> dict[str, Any]:
    """Metrics of each column of ranks; the model's with intervals, and against each baseline."""
    found: dict[str, Any] = {}
    for among in _AMONG:
        mine = ranks[among]
        metrics = ranking_metrics(mine, ks)
        entry: dict[str, Any] = {**metrics, "interval": mean_intervals(mine, list(metrics))}
        for name in BASELINES:
            if (other := ranks.get(f"{name}_{among}")) is not None:
                compared = paired_bootstrap(_gains(mine), _gains(other))
                entry[name] = {
                    **ranking_metrics(other, ks),
                    "better_by": {_COMPARED: compared.difference, "interval": compared.interval},
                }
        found[among] = entry
    return found


def _gains(ranks: NDArray[np.int64]) -> UserGains:
    return UserGains(np.arange(len(ranks)), rank_gains(ranks, _COMPARED))
