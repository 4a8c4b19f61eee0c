"""Section ``ranking``: users a second of full ranking with all metrics.

The floor is one matrix product and a top-k: no exclusion, no rank beyond the k-th. Ours gives the
exact rank of every user's held-out item among all items the user has not taken, in every K.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse

from benchmarks.peers.ceilings import measure_ceilings
from benchmarks.peers.peers import MissingPeer, peer, quiet, threads_of_its_own
from benchmarks.peers.record import Check, Entry, Section, rate_figures, ratios_of
from benchmarks.peers.session import now
from benchmarks.peers.timing import Contender, Work, alternate
from benchmarks.peers.workload import Workload
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.user_items import UserItems
from cadc_rec.distributed.processes import processes
from cadc_rec.evaluation.metrics import ranking_metrics
from cadc_rec.evaluation.ranking import held_out_ranks
from cadc_rec.versions import code_commit

_K = 10
_TURN_SECONDS = 0.5


def measure(workload: Workload) -> Section:
    """Let ours, the floor and implicit's take turns."""
    experiment, data = workload.experiment("cadc"), workload.dataset
    width = experiment.model.tower[-1]
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(data.n_users, width, generator=generator)
    items = torch.randn(data.n_items, width, generator=generator)
    excluded = UserItems(data.user_indptr, data.train_item)
    missing: dict[str, str] = {}
    hits: dict[str, float] = {}

    def ours() -> Work:
        ranks = held_out_ranks(users, items, data.val_item, excluded)
        hits["ours"] = ranking_metrics(ranks[data.val_item >= 0], (_K,))[f"hr@{_K}"]
        return Work(data.n_users)

    def product() -> Work:
        (users @ items.t()).topk(_K)
        return Work(data.n_users)

    turns = [Contender("ours", ours), Contender("product-topk", product)]
    with processes(experiment.compute):
        ceilings = measure_ceilings([experiment.model.id_dim, *experiment.model.tower])
        try:
            turns.append(Contender("implicit", _implicit(data, users, items, hits)))
        except MissingPeer as error:
            missing["implicit"] = str(error)
        seconds = alternate(
            turns, workload.repeats, at_least=_TURN_SECONDS, neighbour=workload.neighbour
        )
    what = {
        "ours": "ranks among all items not taken, HR and NDCG",
        "product-topk": f"one matrix product and the top {_K} of all items (the floor)",
        "implicit": f"implicit's recommend: the top {_K} of the items not taken, HR",
    }
    flops = 2.0 * data.n_items * width
    checks = []
    if "implicit" in hits:
        # Scores in float32 may change places at the tenth rank: a user in a thousand.
        difference = abs(hits["ours"] - hits["implicit"])
        checks = [Check(what=f"difference of HR@{_K} from implicit", value=difference, limit=1e-3)]
    return Section(
        title="Full ranking",
        unit="users/s",
        better="more",
        measured=now(),
        commit=code_commit(),
        entries={
            name: Entry(
                what=what[name],
                figures=(figures := rate_figures(taken)),
                ceiling="square GFLOP/s",
                share=flops * figures.median / 1e9 / ceilings["square GFLOP/s"],
            )
            for name, taken in seconds.items()
        },
        ratios=ratios_of(seconds, [("ours", "product-topk"), ("ours", "implicit")]),
        missing=missing,
        checks=checks,
        notes={"users": data.n_users, "items": data.n_items, "width": width},
        ceilings=ceilings,
    )


def _implicit(
    data: Dataset, users: torch.Tensor, items: torch.Tensor, hits: dict[str, float]
) -> Callable[[], Work]:
    """Recommend to all users with our vectors, and count the hits."""
    library = peer("implicit.cpu.als")
    with quiet(), threads_of_its_own():  # it warns of BLAS's threads while they are many
        model = library.AlternatingLeastSquares(factors=users.shape[1])
    model.user_factors, model.item_factors = users.numpy(), items.numpy()
    taken = sparse.csr_matrix(
        (np.ones(len(data.train_item), np.float32), data.train_item, data.user_indptr),
        shape=(data.n_users, data.n_items),
    )
    everyone, held_out = np.arange(data.n_users), data.val_item >= 0

    def turn() -> Work:
        with quiet(), threads_of_its_own():
            found, _ = model.recommend(everyone, taken, N=_K, filter_already_liked_items=True)
        hit = (found == data.val_item[:, None]).any(1)
        hits["implicit"] = float(hit[held_out].mean())
        return Work(data.n_users)

    return turn
