"""Pre-training with an MLP on the two vectors, by the two towers' own trainer."""

from __future__ import annotations

import torch

from cadc_rec.config.experiment import PretrainConfig, TrainConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.load.shards import Examples
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.trained_rows import averaging
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
) -> None:
    """Train on every training interaction and export the tables of the last epoch.

    Args:
        pretrain: the ``[pretrain.mlp]`` settings, width and start of the vectors.
        seed: of the initial weights, the order and the negatives.
        dataset: D_full.
        processes: the ranks; each reads its share of D_full, and holds its own of both tables.
        draft: receives ``user.safetensors`` and ``item.safetensors``.
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
        dataset.n_users, dataset.n_items, pretrain.factors + 1, settings.hidden, processes
    )
    model.initialize(seed, pretrain.init_std)
    wrapped = averaging(model, processes)
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
    total = processes.all_reduce_sum
    user, item = (
        scaled(table.weight.detach(), pretrain.scale, total) for table in (model.users, model.items)
    )
    IdTables.save_shares(draft.path, user, item, (dataset.n_users, dataset.n_items), processes)
    draft.rows = len(dataset.train_item) * config.epochs
    draft.info = {
        "interactions": len(dataset.train_item),
        "validation": {},
        "validation_seconds": 0.0,
        "history": trained.history,
    }
