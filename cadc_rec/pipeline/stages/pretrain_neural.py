"""Pre-training with an MLP on the two vectors, by the two towers' own trainer."""

from __future__ import annotations

from zlib import crc32

import torch

from cadc_rec.config.experiment import PretrainConfig, ShardingConfig, TrainConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.load.shards import Examples
from cadc_rec.data.randomness import Purpose, normal_blocks
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.sharding import shard_model
from cadc_rec.distributed.state import gather_state, local_tensors
from cadc_rec.pretrain.factorizations import NeuralFactorization
from cadc_rec.pretrain.id_tables import IdTables, scaled
from cadc_rec.store.artifact import Draft
from cadc_rec.training.reading import make_loader
from cadc_rec.training.trainer import Trainer


def build_neural_tables(
    pretrain: PretrainConfig,
    seed: int,
    dataset: Dataset,
    processes: Processes,
    draft: Draft,
    sharding: ShardingConfig,
) -> None:
    """Train on every training interaction and export the tables of the last epoch.

    Args:
        pretrain: the ``[pretrain.mlp]`` settings, width and start of the vectors.
        seed: of the initial weights, the order and the negatives.
        dataset: D_full.
        processes: the ranks; each reads its share of the rows.
        draft: receives ``user.safetensors`` and ``item.safetensors``.
        sharding: what memory tables may fill.
    """
    settings = pretrain.mlp
    config = TrainConfig(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        negatives=settings.negatives,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        average_epochs=0.0,
    )
    torch.manual_seed(seed)
    model = NeuralFactorization(
        dataset.n_users, dataset.n_items, pretrain.factors + 1, settings.hidden, processes.device
    )
    kinds = {"user": "data_parallel", "item": "data_parallel"}
    wrapped = shard_model(model, kinds, processes, config.batch_size, sharding)
    with torch.no_grad():
        for local in local_tensors(wrapped, lambda name: ".embedding_bags." in name):
            key = (seed, Purpose.TABLE_INITIALIZATION, crc32(local.name.encode()))
            every = range(len(local.tensor))
            for part, values in normal_blocks(key, every, local.width, pretrain.init_std):
                local.tensor[part] = torch.from_numpy(values)
    share = processes.share(len(dataset.train_item))
    rows = [
        len(range(len(dataset.train_item) * r // processes.world_size,
                  len(dataset.train_item) * (r + 1) // processes.world_size))
        for r in range(processes.world_size)
    ]  # fmt: skip
    mine = slice(share.start, share.stop)
    examples = Examples(dataset.train_user[mine], dataset.train_item[mine])
    loader = make_loader(config, examples, rows, processes.rank, dataset.n_items, seed)
    optimizer = torch.optim.Adam(
        wrapped.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    trainer = Trainer(
        wrapped, optimizer, loader, config, processes, lambda name: True, graphs="off"
    )
    trained = trainer.fit(None, title="pretrain (MLP)")
    state = gather_state(wrapped, processes)
    if processes.rank == 0:
        user, item = (
            scaled(state[f"{side}s.embedding_bags.{side}.weight"], pretrain.scale)
            for side in ("user", "item")
        )
        IdTables(user, item).save(draft.path)
    draft.rows = len(dataset.train_item) * config.epochs
    draft.info = {
        "interactions": len(dataset.train_item),
        "validation": {},
        "validation_seconds": 0.0,
        "history": trained.history,
    }
