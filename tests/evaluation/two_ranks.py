"""Run as the ranks of a job: ``two_ranks.py OUT`` ranks and counts, rank 0 writes what came out."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.data.recent_popularity import RecentPopularity, RecentScores
from cadc_rec.data.transition_lists import ListedScores, TransitionLists
from cadc_rec.distributed.processes import processes
from cadc_rec.evaluation.on_top import OnTop
from cadc_rec.evaluation.sharded import ranks_by_share
from cadc_rec.evaluation.top_items import TopItems
from tests.evaluation.close_scores import close_world

WORLD = close_world(9, users=41, items=301)
_random = np.random.default_rng(9)
HISTORY = _random.integers(-1, 301, (41, 3)).astype(np.int32)
ASKED = _random.integers(0, 900, 41)
LOG = np.sort(_random.integers(0, 900, 400)), _random.integers(0, 301, 400).astype(np.int32)
LISTS = TransitionLists(
    np.arange(302) * 20,
    np.concatenate([_random.choice(301, 20, replace=False) for _ in range(301)]).astype(np.int32),
    _random.random(301 * 20).astype(np.float32),
)


def on_top():
    recent = RecentScores(RecentPopularity(*LOG, 301), window=100.0, factor=0.7)
    return OnTop(ListedScores(LISTS, 0.5, 2.0, 3), recent, lambda _, users: HISTORY[users])


def added_scores():
    """What is added to the dot products, loop by loop: float64 ``[users, items]``."""
    added = np.zeros((41, 301))
    for user, history in enumerate(HISTORY):
        weights = np.where(history >= 0, [1, 0.5, 0.25], 0)
        for item, weight in zip(history, weights, strict=True):
            for place in range(item * 20, item * 20 + 20) if item >= 0 else ():
                share = weight / weights.sum() * 2
                added[user, LISTS.items[place]] += share * LISTS.weights[place]
        inside = (LOG[0] >= ASKED[user] - 100) & (LOG[0] < ASKED[user])
        added[user] += 0.7 * np.log1p(np.bincount(LOG[1][inside], minlength=301))
    return added


if __name__ == "__main__":
    users, items, targets, excluded = WORLD
    with processes(ComputeConfig(device="cpu", threads=1, timeout_seconds=60)) as joined:
        mine, own = joined.share(len(users)), joined.share(len(items))
        top = TopItems((3, 10), len(items))
        arguments = (
            torch.from_numpy(users[mine.start : mine.stop]),
            torch.from_numpy(items[own.start : own.stop]),
            targets,
            excluded,
            joined,
            len(items),
        )
        ranks = ranks_by_share(*arguments, top=top)
        dataset = SimpleNamespace(val_timestamp=ASKED)
        listed, order = on_top().of_users(dataset, None, False, own)
        with_listed = ranks_by_share(*arguments, listed=listed, order=order)
        found = {
            "plain": {
                "counts": [of_k.tolist() for of_k in top.of_ks().values()],
                "ranks": ranks.tolist(),
            },
            "listed": with_listed.tolist(),
        }
        if joined.rank == 0:
            Path(sys.argv[1]).write_text(json.dumps(found))
