"""What quantized tables cost in accuracy and save in memory: a finished experiment's towers.

    python -m benchmarks.quantized configs/ml-1m.toml --workdir work

Ranks every test item with the vectors of each TorchRec predict module, as the evaluation does with
the float ones, and prints HR@10 and the size of the tables beside them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from cadc_rec.config.file import load_experiment
from cadc_rec.evaluation.metrics import ranking_metrics
from cadc_rec.evaluation.ranking import held_out_ranks
from cadc_rec.export.finished import Finished
from cadc_rec.export.predict import ANSWER, PRECISIONS, TwoTowerPredictFactory
from cadc_rec.export.towers import batch_of, history_features, side_features
from cadc_rec.export.trained import TrainedModel
from cadc_rec.pipeline.pipeline import Pipeline


def quantized_vectors(
    finished: Finished, trained: TrainedModel, precision: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors of all users and all items, as the scripted module of this precision gives them."""
    data, module = finished.dataset, TwoTowerPredictFactory(trained, precision).scripted()
    request = side_features(np.arange(data.n_users), trained.user.attributes)
    if trained.history_length:
        request += history_features(data.last_items(trained.history_length, with_validation=True))
    items = side_features(np.arange(data.n_items), trained.item.attributes)
    return (
        module.query_vectors(batch_of(request))[ANSWER],
        module.item_vectors(batch_of(items))[ANSWER],
    )


def main(
    config: Path,
    workdir: Annotated[Path, typer.Option()] = Path("work"),
    method: Annotated[str | None, typer.Option()] = None,
    sets: Annotated[list[str] | None, typer.Option("--set")] = None,
) -> None:
    """Print the table."""
    experiment = load_experiment(config, method=method, overrides=sets or ())
    pipeline = Pipeline(experiment, workdir)
    finished = Finished(experiment, pipeline.run(), pipeline.dataset, pipeline.pretrained)
    trained = finished.trained()
    if trained is None:
        raise SystemExit("this method has no towers")
    data, known = finished.dataset, finished.known
    has_test = data.test_item >= 0

    def hit_rate(users: torch.Tensor, items: torch.Tensor) -> float:
        ranks = held_out_ranks(users, items, data.test_item, known)
        return ranking_metrics(ranks[has_test], (10,))["hr@10"]

    users, items = (torch.from_numpy(finished.vectors(side)) for side in ("user", "item"))
    base, size = hit_rate(users, items), sum(4 * table.weight.numel() for table in trained.tables)
    print(f"{'tables':8}  {'HR@10':>7}  {'change':>7}  {'bytes':>12}  {'share':>6}")
    print(f"{'float':8}  {base:7.3%}  {'':7}  {size:12,}  {1:6.3f}")
    for precision in PRECISIONS:
        reached = hit_rate(*quantized_vectors(finished, trained, precision))
        taken = TwoTowerPredictFactory(trained, precision).table_bytes()
        print(
            f"{precision:8}  {reached:7.3%}  {reached / base - 1:+7.2%}  {taken:12,}"
            f"  {taken / size:6.3f}"
        )


if __name__ == "__main__":
    typer.run(main)
