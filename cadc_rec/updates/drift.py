"""How far a day moved what there was: vectors, popularity, and what is ranked where.

In: the artifacts before and after. Out: plain numbers for the report of an update, and the reasons
to build anew where they pass the limits of ``[update]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from cadc_rec.config.experiment import UpdateConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.sources.raw_tables import Side
from cadc_rec.data.user_items import UserItems
from cadc_rec.evaluation.metrics import ranking_metrics
from cadc_rec.evaluation.statistics import mean_gains, paired_bootstrap
from cadc_rec.store.artifact import Artifact
from cadc_rec.updates.served import served_ranks

_MOST_POPULAR = 100


def vector_drift(
    before: torch.Tensor,
    after: torch.Tensor,
    changed: NDArray[np.int64],
    reused: NDArray[np.int64] | None = None,
) -> dict[str, dict[str, float] | None]:
    """How the rows of `before` moved.

    Args:
        before: ``[n, d]``.
        after: ``[n + new, d]``. One of the two may have further elements at the end, which are not
            compared: a prior's fit may give popularity no weight, and then it is no element.
        changed: rows whose interactions changed, new ones among them.
        reused: rows that had another owner before, which are not compared.

    Returns:
        For ``all``, ``changed`` and ``unchanged`` rows their number, the mean cosine of before and
        after, and the mean length of the difference over the mean length before; None where there
        are no such rows.
    """
    n, width = len(before), min(before.shape[1], after.shape[1])
    old, new = before[:, :width].double(), after[:n, :width].double()
    cosine = torch.nn.functional.cosine_similarity(old, new, dim=1).numpy()
    moved, length = (new - old).norm(dim=1).numpy(), old.norm(dim=1).numpy()
    of_changed = np.zeros(n, bool)
    of_changed[changed[changed < n]] = True
    same = np.ones(n, bool)
    same[[] if reused is None else reused] = False
    found: dict[str, dict[str, float] | None] = {}
    for name, rows in (
        ("all", same),
        ("changed", of_changed & same),
        ("unchanged", ~of_changed & same),
    ):
        if not rows.any():
            found[name] = None
            continue
        found[name] = {
            "rows": int(rows.sum()),
            "cosine": float(cosine[rows].mean()),
            "relative_change": float(moved[rows].mean() / max(length[rows].mean(), 1e-12)),
        }
    return found


def popularity_shift(
    old: NDArray[np.int32],
    came: NDArray[np.int32],
    n_items: int,
    reused: NDArray[np.int64] | None = None,
) -> dict[str, float]:
    """How the items of new training rows differ from those of the old ones.

    Args:
        old: item of each old row.
        came: item of each new row.
        n_items: of all.
        reused: rows of items that had another owner in `old`.

    Returns:
        ``total_variation`` between the two distributions over items, from 0 to 1, and what share
        of the ``top_100`` before is in the top 100 with the new rows.
    """
    former = 0 if reused is None else len(reused)
    before = np.bincount(old, minlength=n_items + former)
    new = np.bincount(came, minlength=n_items + former)
    if reused is not None and former:  # their former owners are items of their own
        before[n_items:], before[reused] = before[reused], 0
    shares = [counts / max(counts.sum(), 1) for counts in (before, new)]
    tops = [
        set(np.argsort(-counts, kind="stable")[:_MOST_POPULAR]) for counts in (before, before + new)
    ]
    return {
        "total_variation": float(0.5 * np.abs(shares[0] - shares[1]).sum()) if len(came) else 0.0,
        "top_100_kept": len(tops[0] & tops[1]) / max(len(tops[0]), 1),
    }


def held_out_before_and_after(
    old: Dataset,
    new: Dataset,
    before: Mapping[str, Artifact],
    after: Artifact,
    ks: Sequence[int],
    reused: Mapping[Side, NDArray[np.int64]] | None = None,
    ranked: NDArray[np.int64] | None = None,
) -> dict[str, Any] | None:
    """The new held-out items ranked by the scores served before and by those of now.

    Of users that the old model knew and whose test item is another one. An item that it did not
    know is a miss of the old model.

    Args:
        old: the dataset before.
        new: the next one.
        before: the artifacts of the old one.
        after: the evaluate artifact of the next one.
        ks: cut-offs.
        reused: rows of each side that had another owner before: of users, they are not compared;
            of items, the old model did not know them.
        ranked: users whose test items `after` ranked, ascending; None is all.

    Returns:
        How many users, the metrics of both, and the paired comparison of HR@10; None where no
        known user has a new test item.
    """
    test = new.test_item[: old.n_users]
    known = {"user": np.ones(old.n_users, bool), "item": np.ones(old.n_items, bool)}
    for side, rows in (reused or {}).items():
        known[side][rows] = False
    stays = (test == old.test_item) & known["item"][np.where(test < old.n_items, test, -1)]
    now = new.test_item >= 0
    if ranked is not None:
        now[:] = False
        now[ranked] = True
    moved = np.flatnonzero(now[: old.n_users] & ~stays & known["user"])
    if not len(moved):
        return None
    targets = np.where(test[moved] < old.n_items, test[moved], -1)
    targets[~known["item"][targets]] = -1
    taken = _excluded(new, moved, known["item"])
    ranks = served_ranks(before, old, moved, targets, taken, max(*ks, 10))
    ranks[targets < 0] = new.n_items
    of_ranked = pq.read_table(after.path / "ranks.parquet", columns=["rank"])["rank"].to_numpy()
    ranks_now = of_ranked[np.cumsum(now)[moved] - 1]
    gains = [mean_gains([(moved, of)], "hr@10") for of in (ranks_now, ranks)]
    compared = paired_bootstrap(*gains)
    return {
        "users": len(moved),
        "before": ranking_metrics(ranks, ks),
        "after": ranking_metrics(ranks_now, ks),
        "hr@10_difference": compared.difference,
        "hr@10_interval": list(compared.interval),
        "verdict": compared.verdict,
    }


def _excluded(dataset: Dataset, users: NDArray[np.int64], known: NDArray[np.bool_]) -> UserItems:
    """What these users took, less what the old model did not know: ``known[item]`` says what."""
    items = []
    for user in users:
        taken = dataset.train_item[dataset.user_indptr[user] : dataset.user_indptr[user + 1]]
        taken = np.append(taken, dataset.val_item[user])
        taken = taken[(taken >= 0) & (taken < len(known))]
        items.append(taken[known[taken]].astype(np.int32))
    return UserItems.of_lists(items)


def reasons_to_rebuild(
    config: UpdateConfig,
    new_share: float,
    since_full: Mapping[str, Mapping[str, dict[str, float] | None]],
    held_out: Mapping[str, Any] | None,
) -> list[str]:
    """Why a full rebuild is advisable; empty where it is not.

    Args:
        config: the limits.
        new_share: interactions that came since the last full build, over those it had.
        since_full: `vector_drift` of the served vectors since then, by side.
        held_out: from `held_out_before_and_after`.
    """
    found = []
    if new_share > config.advise_new_share:
        found.append(
            f"{new_share:.1%} new interactions since the last full build are more than "
            f"update.advise_new_share = {config.advise_new_share:.1%}"
        )
    for side, drift in since_full.items():
        every = drift["all"]
        if every is not None and every["cosine"] < config.advise_cosine:
            found.append(
                f"the {side} vectors stand at a mean cosine of {every['cosine']:.2f} to those of "
                f"the last full build, below update.advise_cosine = {config.advise_cosine}"
            )
    if held_out is not None and held_out["verdict"] == "worse":
        found.append("the new held-out items rank worse than by the vectors before the update")
    return found
