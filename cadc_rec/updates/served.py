"""What a state serves: its vectors, and where they rank an item.

In: the artifacts of a run or an update, and its dataset. Out: vectors; ranks of items for users, by
all the scores that the service would give.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy import sparse

from cadc_rec.data.dataset import Dataset
from cadc_rec.data.recent_popularity import LatestScores
from cadc_rec.data.transition_lists import ListedScores
from cadc_rec.data.user_items import UserItems
from cadc_rec.evaluation.ranking import Listed, held_out_ranks
from cadc_rec.store.artifact import Artifact


def served_vectors(evaluation: Artifact, side: str) -> torch.Tensor:
    """Vectors of an evaluate artifact, ``[n, d]``."""
    return load_file(evaluation.path / f"{side}_vectors.safetensors")["vectors"]


def served_ranks(
    before: Mapping[str, Artifact],
    old: Dataset,
    users: NDArray[np.int64],
    targets: NDArray[np.int64],
    taken: UserItems,
    k: int | None = None,
) -> NDArray[np.int64]:
    """Ranks of items by the scores that a state serves: vectors, lists and recent popularity.

    Args:
        before: the state's artifacts.
        old: its dataset, as whose log ended a request is answered.
        users: rows of it ``[n]``.
        targets: an item of each, -1 for none.
        taken: what is no candidate, of each of `users`.
        k: the largest K of the metrics that are made of the ranks; None gives exact ones.

    Returns:
        int64 ``[n]``; 0 without a target.
    """
    evaluation = before["evaluate"]
    info = evaluation.info
    latest = LatestScores.of_evaluation(info, old.train_timestamp, old.train_item, old.n_items)
    folders = [before[stage].path for stage in ("evaluate", "transitions") if stage in before]
    lists = ListedScores.of_evaluation(info, folders)
    listed: Listed | None = None
    if lists is not None:
        history = old.last_items(lists.length, True, users)
        of_items = lists.of_targets(range(old.n_items))

        def listed(places: NDArray[np.int64]) -> sparse.csr_array:
            return of_items.of(history[places])

    of_users = served_vectors(evaluation, "user")[torch.from_numpy(users)].numpy()
    return held_out_ranks(
        torch.from_numpy(latest.of_users(of_users)),
        torch.from_numpy(latest.of_items(served_vectors(evaluation, "item").numpy())),
        targets,
        taken,
        listed=listed,
        enough=k,
    )
