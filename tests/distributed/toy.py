"""A tiny dataset in memory, and one training of it: what the sharding tests compare."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file, save
from scipy import sparse

from cadc_rec.config.experiment import (
    AlsConfig,
    Experiment,
    PretrainConfig,
    ShardingConfig,
    TransitionsConfig,
)
from cadc_rec.data.dataset import Attribute
from cadc_rec.data.dense import DenseAttribute
from cadc_rec.data.load.shards import Examples
from cadc_rec.data.user_items import UserItems
from cadc_rec.distributed.row_files import Target, write_rows
from cadc_rec.distributed.state import gather_state, local_tensors, write_state
from cadc_rec.pipeline.stages.pretrain_neural import build_neural_tables
from cadc_rec.pipeline.stages.transitions import build_transitions
from cadc_rec.pretrain.als import train_als
from cadc_rec.pretrain.alternating import AlternatingSolver, Interactions
from cadc_rec.pretrain.factor_tables import PartitionedTable, ReplicatedTable
from cadc_rec.pretrain.id_tables import IdTables, Pretrained, TransitionTables, scaled
from cadc_rec.pretrain.least_squares import LeastSquares, by_column
from cadc_rec.pretrain.softmax import SoftmaxSolver
from cadc_rec.store.artifact import Draft
from cadc_rec.training.build import build_model, frozen_tables_intact
from cadc_rec.training.kept import Histories, keep_frozen_rows
from cadc_rec.training.kept_reads import KeptReads
from cadc_rec.training.reading import make_loader
from cadc_rec.training.tables import dense_optimizer
from cadc_rec.training.trainer import Trainer

USERS, ITEMS, DIM = 41, 23, 8
LENGTH, WIDTH = 5, 4  # of a history, of transition vectors
HISTORIES = ("history", "prior")
MANY = ("whole-", "sorted-")
HALF = "bfloat16-"
DENSE = "dense-"


def vectors(ids: int, width: int, dtype: type) -> np.ndarray:
    """Rows of length 1; the first two are missing."""
    rows = np.random.default_rng(width).normal(size=(ids, width))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[:2] = 0
    return rows.astype(dtype)


def dataset(dense: bool = False):
    """Sizes and attributes, one categorical and one with several values (or none).

    With `dense`, users have vectors stored as fp16, and items vectors and numbers.
    """
    of_users = [DenseAttribute("face", "vector", vectors(USERS, 12, np.float16))]
    of_items = [
        DenseAttribute("image", "vector", vectors(ITEMS, 8, np.float32)),
        DenseAttribute("continuous", "numbers", vectors(ITEMS, 4, np.float32)),
    ]
    rng = np.random.default_rng(0)
    group = Attribute(
        "group", "categorical", 4, np.arange(USERS + 1), rng.integers(1, 4, USERS, dtype=np.int32)
    )
    lengths = rng.integers(0, 4, ITEMS)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    genres = Attribute("genres", "multi", 6, indptr, rng.integers(1, 6, indptr[-1], dtype=np.int32))
    return SimpleNamespace(
        n_users=USERS,
        n_items=ITEMS,
        user_attributes=[group],
        item_attributes=[genres],
        user_dense=of_users if dense else [],
        item_dense=of_items if dense else [],
        train_item=np.arange(ITEMS, dtype=np.int32),
        item_counts=np.ones(ITEMS, np.int64),
        last_items=lambda length, with_validation, users: histories(USERS)[users, :length],
    )


def tables():
    """Pre-trained vectors."""
    generator = torch.Generator().manual_seed(5)
    return IdTables(
        torch.randn(USERS, DIM, generator=generator), torch.randn(ITEMS, DIM, generator=generator)
    )


def pretrained(ids: str) -> Pretrained:
    """What the model of `experiment(ids, ...)` is given."""
    if ids.endswith("trainable"):
        return Pretrained()
    generator = torch.Generator().manual_seed(6)
    source, target = (torch.randn(ITEMS, WIDTH, generator=generator) for _ in range(2))
    return Pretrained(tables(), TransitionTables(source, target) if ids in HISTORIES else None)


def experiment(ids: str, kind: str) -> Experiment:
    """Two epochs of a small model with this id embedding under this sharding.

    ``history`` is frozen ids with a history, transitions and a softmax; ``prior`` has a prior too.
    ``whole-`` and ``sorted-`` before a kind of ids have negatives enough for all items in a step;
    ``bfloat16-`` before that has training's products in bfloat16. ``dense-`` has vectors and
    numbers beside the attributes.
    """
    more, train, pretraining = {}, {"negatives": 2}, "mf"
    precision = "bfloat16" if ids.startswith(HALF) else "float32"
    ids = ids.removeprefix(HALF).removeprefix(DENSE)
    if ids.startswith(MANY):
        ids, train = ids.partition("-")[2], {"negatives": 12}
    if ids in HISTORIES:
        prior = {"use": ids == "prior"}
        pretraining = "als" if prior["use"] else "mf"
        ids, train = "init_frozen", {"loss": "sampled-softmax", "shared_negatives": 9}
        train["exclude_known"] = True
        more = {"history": {"length": LENGTH, "windows": [1, 3, 9]}, "transitions": {"window": 2}}
        more["prior"] = prior
    if ids == "trainable":
        pretraining = "none"
    return Experiment.model_validate(
        {
            "pretrain": {"model": pretraining, "factors": DIM - 1},
            "model": {"id_embedding": ids, "id_dim": DIM, "feature_dim": 4, "tower": [8, 4]},
            "train": {
                "epochs": 2,
                "batch_size": 20,
                "learning_rate": 0.01,
                "precision": precision,
                **train,
            },
            "sharding": {"trainable": kind, "frozen": kind},
            **more,
        }
    )


def known_items() -> UserItems:
    """Three items of each user."""
    items = np.random.default_rng(4).integers(0, ITEMS, (USERS, 3)).astype(np.int32)
    return UserItems(np.arange(USERS + 1) * 3, np.sort(items, 1).ravel())


def histories(n: int) -> np.ndarray:
    """Up to `LENGTH` random items each, some rows without any; int32 ``[n, LENGTH]``."""
    rng = np.random.default_rng(2)
    items = rng.integers(0, ITEMS, (n, LENGTH)).astype(np.int32)
    items[np.arange(LENGTH) >= rng.integers(0, LENGTH + 1, n)[:, None]] = -1
    return items


def train(
    ids: str,
    kind: str,
    processes,
    rows: list[int] | None = None,
    cached: bool = True,
    ahead: bool | None = None,
    graphs: str = "auto",
) -> dict:
    """Train, and say what came of it.

    `rows` gives each rank its share of the 120 positives; `cached` says whether histories are
    pooled once or for each step; `graphs` whether a GPU's steps are CUDA graphs; `ahead` whether
    ids are sent to trained tables ahead of time (and then validation looks some up).
    """
    rng = np.random.default_rng(1)
    users, items = rng.integers(0, USERS, 120), rng.integers(0, ITEMS, 120)
    rows = rows or [
        120 * (r + 1) // processes.world_size - 120 * r // processes.world_size
        for r in range(processes.world_size)
    ]
    first = sum(rows[: processes.rank])
    mine = slice(first, first + rows[processes.rank])
    e = experiment(ids, kind)
    dense = ids.startswith(DENSE)
    ids = ids.removeprefix(HALF).removeprefix(DENSE)
    given = pretrained(ids)
    model = build_model(e, dataset(dense), given, processes)
    before, learned_before = digests(model, processes), digests(model, processes, model.trains)
    history = histories(120)[mine] if ids in HISTORIES else None
    examples = Examples(users[mine], items[mine], history)
    loader = make_loader(e.train, examples, rows, processes.rank, ITEMS, 0, known_items())
    if ids.startswith("whole-"):
        keep_frozen_rows(model.module.user.ids, users[mine], processes, 1 << 30)
    if ids.startswith("sorted-"):  # the items of each step, although they are nearly all
        assert loader.arrange.everything is not None
        loader.arrange.everything = None
    used = []
    loader.arrange = noted(loader.arrange, used, first)
    optimizer = dense_optimizer(model.wrapped, model.module, e.train)
    contexts = None
    if history is not None:
        contexts = Histories(model.module, history, rows, processes, 1 << 30 if cached else 0)
    trainer = Trainer(
        model.wrapped,
        optimizer,
        loader,
        e.train,
        processes,
        model.trains,
        histories=contexts,
        ahead=model.module if ahead else None,
        graphs=graphs,
        reads=model.module.frozen_reads,
    )
    measured = []

    def validate() -> dict[str, float]:
        if ahead is not None:
            measured.append(float(model.user_vectors().double().sum()))
        return {"ndcg@10": 0.0}

    history = trainer.fit(validate).history
    asked = []

    def known(rows):
        asked.append(len(rows))
        return histories(USERS)[rows]

    of_users = known if ids in HISTORIES else None
    mine, kept = model.user_vectors(of_users), KeptReads(1 << 20)
    asked.clear()
    kept_alike = [torch.equal(model.user_vectors(of_users, kept=kept), mine) for _ in range(2)]
    vectors = (
        processes.all_gather_rows(mine, USERS),
        processes.all_gather_rows(model.item_vectors(), model.n_items),
    )
    held = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    return {
        "loss": [entry["loss"] for entry in history],
        "intact": frozen_tables_intact(model, given),
        "streamed": streamed(model, processes),
        "tables": digests(model, processes),
        "tables_before": before,
        "learned": digests(model, processes, model.trains),
        "learned_before": learned_before,
        "columns": column_offsets(model),
        "vectors": [float(v.double().sum()) for v in vectors],
        "measured": measured,
        "kept": gathered([all(kept_alike), len(asked)], processes),
        "optimized": held,
        "plan": model.plan(),
        "rows_used": gathered(used, processes),
        "tables_of": gathered([sum(t.numel() for t in id_tables(model)) > 0], processes),
    }


def noted(arrange, used: list[int], first: int):
    """Make steps as before, and note which of all positives each of them has."""

    def arranged(step, examples):
        used.extend((first + step.rows).tolist())
        return arrange(step, examples)

    return arranged


def id_tables(model) -> list[torch.Tensor]:
    """This rank's parts of id tables."""
    return [local.tensor for local in local_tensors(model.wrapped, main_id_tables)]


def gathered(values: list, processes) -> list[list]:
    """Every rank's values."""
    if processes.world_size == 1:
        return [values]
    of_ranks = [None] * processes.world_size
    torch.distributed.all_gather_object(of_ranks, values)
    return of_ranks


def main_id_tables(name: str) -> bool:
    """Whether a state entry is an id table that may hold pre-trained vectors."""
    return ".ids.table." in name or name.startswith(("sources.", "targets."))


def digests(model, processes, keep=main_id_tables) -> dict[str, str]:
    """SHA-256 of every whole state entry of these names, on rank 0."""
    return {
        name: hashlib.sha256(value.numpy().tobytes()).hexdigest()
        for name, value in gather_state(model.wrapped, processes, keep).items()
    }


def streamed(model, processes) -> bool:
    """Whether the state's file, written a few rows at a time, has safetensors' bytes (rank 0)."""
    whole = gather_state(model.wrapped, processes, model.trains)
    with shared_folder(processes) as folder:
        file = folder / "model.safetensors"
        write_state(Target(file), model.wrapped, processes, model.trains, piece=4 * DIM * 5)
        return processes.rank == 0 and file.read_bytes() == save(whole)


@contextlib.contextmanager
def shared_folder(processes):
    """A folder that all ranks write to; it goes when the last one is done with it."""
    with contextlib.ExitStack() as stack:
        if processes.rank == 0:
            made = stack.enter_context(tempfile.TemporaryDirectory())
        yield Path(processes.broadcast(made if processes.rank == 0 else None))
        processes.barrier()


def column_offsets(model) -> dict[str, list[int]]:
    """First column of every shard of an id table, over all ranks."""
    plan = model.wrapped.plan.plan
    return {
        side: [
            shard.shard_offsets[1]
            for shard in getattr(plan[f"{side}.ids.table"][side].sharding_spec, "shards", [])
        ]
        for side in ("user", "item")
    }


def pretraining(processes) -> dict:
    """What each kind of pre-training gives on these processes."""
    return {
        "factorize": factorize(processes),
        "partitioned": partitioned(processes),
        "softmax": factorize(processes, loss="softmax", shared_negatives=25),
        "softmax partitioned": partitioned(processes, loss="softmax", shared_negatives=25),
        "columns": columns(processes),
        "als": least_squares(processes),
        "als of interactions": als(processes, "replicated"),
        "als partitioned": als(processes, "partitioned"),
        "transitions": transitions(processes, "factors", "replicated"),
        "transitions partitioned": transitions(processes, "factors", "partitioned"),
        "transition lists": transitions(processes, "lists", "replicated"),
        "neural": neural(processes),
        "written": written(processes),
    }


def least_squares(processes) -> list[list[float]]:
    """Both tables of a small weighted ALS, flattened."""
    rng = np.random.default_rng(3)
    values = sparse.csr_array((rng.random((USERS, ITEMS)) < 0.3).astype(np.float32))
    tables = [torch.zeros(n, DIM, device=processes.device) for n in (USERS, ITEMS)]
    weights = (1 + rng.random(values.nnz)).astype(np.float32)
    solver = LeastSquares.of_matrix(*tables, values, weights, 0.5, 3, (0, 9), processes)
    for _ in solver.sweeps(3):
        pass
    return [table.flatten().cpu().tolist() for table in tables]


def columns(processes) -> list[list[float]]:
    """A matrix by its columns, of its rows on every rank, of which few are sent at once."""
    rng = np.random.default_rng(6)
    matrix = sparse.csr_array(rng.random((USERS, ITEMS)) * (rng.random((USERS, ITEMS)) < 0.2))
    share = processes.share(USERS)
    mine = matrix[share.start : share.stop].astype(np.float32)
    found = by_column(mine, processes, piece=50)
    assert found.has_canonical_format
    whole = torch.from_numpy(found.toarray()).to(processes.device)
    assert len(whole) == len(processes.share(ITEMS))
    return processes.all_gather_rows(whole, ITEMS).cpu().tolist()


def als(processes, kind) -> list[list[float]]:
    """Both tables of ALS on weighted interactions whose weights fade with age, flattened."""
    data = pairs_of_factorization()
    weights = np.random.default_rng(4).random(len(data)).astype(np.float32)
    if kind == "replicated":
        whole = (torch.zeros(n, DIM, device=processes.device) for n in (USERS, ITEMS))
        tables = [ReplicatedTable(table, processes) for table in whole]
    else:
        tables = [PartitionedTable(n, DIM, processes, 40) for n in (USERS, ITEMS)]
    config = AlsConfig(iterations=3, l2=0.5, alpha=2.0, half_life=3.0, conjugate_gradient_steps=3)
    for _ in train_als(*tables, replace(data, weights=weights), config, 0):
        pass
    whole = [processes.all_gather_rows(table.local, table.n) for table in tables]
    return [table.flatten().cpu().tolist() for table in whole]


def transitions(processes, form, kind) -> dict:
    """What the transitions stage writes of a few users' sequences (rank 0), and says."""
    data = pairs_of_factorization()
    dataset = SimpleNamespace(
        n_items=ITEMS,
        train_user=np.repeat(np.arange(USERS), np.diff(data.user_indptr)).astype(np.int32),
        train_item=data.items_by_user,
        user_indptr=data.user_indptr,
    )
    config = TransitionsConfig(
        window=3, decay=0.5, normalization=0.3, form=form, targets=5, dim=DIM
    )
    with shared_folder(processes) as folder:
        draft = Draft(folder)
        build_transitions(config, "unit", 0, dataset, processes, draft, ShardingConfig(), kind)
        files = {file.stem: load_file(file) for file in draft.path.iterdir()}
    read = {
        f"{stem}.{name}": values.flatten().tolist()
        for stem, tensors in files.items()
        for name, values in tensors.items()
    }
    return {"info": draft.info, **read}


def pairs_of_factorization() -> Interactions:
    """300 random interactions, in both orders."""
    rng = np.random.default_rng(3)
    pairs = np.sort(rng.choice(USERS * ITEMS, 300, replace=False))
    users, items = (pairs // ITEMS).astype(np.int32), (pairs % ITEMS).astype(np.int32)
    by_item = np.argsort(items, kind="stable")
    return Interactions(
        np.concatenate([[0], np.cumsum(np.bincount(users, minlength=USERS))]),
        items,
        np.concatenate([[0], np.cumsum(np.bincount(items, minlength=ITEMS))]),
        users[by_item],
    )


def factorize(processes, **settings) -> list[list[float]]:
    """User and item tables of a small matrix factorization, flattened."""
    data = pairs_of_factorization()
    weights = [torch.empty(n, DIM, device=processes.device) for n in (USERS, ITEMS)]
    tables = [ReplicatedTable(weight, processes) for weight in weights]
    config = PretrainConfig(model="mf", factors=DIM - 1, epochs=20, **settings)
    bias = torch.nn.Parameter(torch.zeros((), device=processes.device))
    if config.loss == "softmax":
        solver = SoftmaxSolver(*tables, data, config, 0, processes)
    else:
        solver = AlternatingSolver(*tables, bias, data, config, 0, processes)
    for _ in solver.epochs():
        pass
    return [weight.flatten().cpu().tolist() for weight in weights]


def partitioned(processes, block=40, **settings) -> list[list[float]]:
    """The same factorization where each rank holds its own rows, several blocks a half-step."""
    tables = [PartitionedTable(n, DIM, processes, block) for n in (USERS, ITEMS)]
    config = PretrainConfig(model="mf", factors=DIM - 1, epochs=20, **settings)
    bias = torch.nn.Parameter(torch.zeros((), device=processes.device))
    data = pairs_of_factorization()
    if config.loss == "softmax":
        solver = SoftmaxSolver(*tables, data, config, 0, processes)
    else:
        solver = AlternatingSolver(*tables, bias, data, config, 0, processes)
    for _ in solver.epochs():
        pass
    whole = [processes.all_gather_rows(table.local, table.n) for table in tables]
    return [table.flatten().cpu().tolist() for table in whole]


def written(processes) -> dict[str, list[list[float]]]:
    """Shares of a table under every scale, put into one file and read back (rank 0)."""
    whole = torch.from_numpy(np.random.default_rng(5).normal(2.0, 3.0, (USERS, DIM))).float()
    share = processes.share(USERS)
    read = {}
    with shared_folder(processes) as folder:
        for scale in ("none", "unit", "whiten"):
            file = folder / f"{scale}.safetensors"
            mine = scaled(whole[share.start : share.stop], scale, processes.all_reduce_sum)
            write_rows(Target(file), "weight", mine, USERS, processes)
            if processes.rank == 0:
                read[scale] = load_file(file)["weight"].tolist()
    return read


def neural(processes) -> dict:
    """Pre-training with an MLP on random pairs: its losses and, on rank 0, its tables."""
    rng = np.random.default_rng(3)
    data = SimpleNamespace(
        n_users=USERS,
        n_items=ITEMS,
        train_user=rng.integers(0, USERS, 300).astype(np.int32),
        train_item=(rng.integers(0, ITEMS, 300) // 2).astype(np.int32),
    )
    mlp = {"epochs": 3, "batch_size": 50, "hidden": [8, 4], "learning_rate": 0.01}
    settings = {"model": "mlp", "factors": DIM - 1, "mlp": mlp}
    with shared_folder(processes) as folder:
        draft = Draft(folder)
        build_neural_tables(PretrainConfig.model_validate(settings), 0, data, processes, draft)
        written = {file.stem: load_file(file)["weight"] for file in draft.path.iterdir()}
    return {
        "loss": [entry["loss"] for entry in draft.info["history"]],
        "tables": {side: table.flatten().tolist() for side, table in written.items()},
    }
