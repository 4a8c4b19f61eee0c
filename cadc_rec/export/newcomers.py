"""How a user the model has never seen becomes a vector: from the items the user took.

With a history the user tower is asked, the user's own row standing empty, or folded in where rows
are ALS's; a prior alone needs nothing but the history. Any other model has the history folded into
the items' own vectors.
"""

from __future__ import annotations

import numpy as np
import torch

from cadc_rec.config.experiment import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.export.programs import FoldedNewcomer, HistoryNewcomer, PriorNewcomer, Program
from cadc_rec.export.trained import TrainedModel
from cadc_rec.models.prior import HistoryPrior
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.training.prior import prior_of

_LENGTH = 50  # items of a newcomer that count, where the model itself has no history


def newcomer_program(
    experiment: Experiment,
    dataset: Dataset,
    trained: TrainedModel | None,
    pretrained: Pretrained,
    items: np.ndarray,
) -> Program:
    """The program of a bundle that takes histories of unknown users.

    Args:
        experiment: how histories are folded in (``[prior]``).
        dataset: the histories on which a prior's factors were set.
        trained: the towers, where the model has them.
        pretrained: pre-trained vectors, where the model has them.
        items: ``[n_items, d]``, the vectors that are searched.
    """
    config, length = experiment.prior, experiment.history.length
    if trained is None and config.use:
        prior, factors = prior_of(experiment, dataset, pretrained)
        assert prior is not None
        return Program(PriorNewcomer(prior, factors, pretrained), {"history": (length,)})
    if trained is None or not trained.history_length:
        vectors = torch.from_numpy(items)
        folded = FoldedNewcomer(vectors, HistoryPrior.of(vectors, config))
        return Program(folded, {"history": (_LENGTH,)})
    fold = None
    if experiment.pretrain.model == "als" and pretrained.ids is not None:
        table = trained.item.ids[0].weight
        if table.shape[1] == trained.user.id_width:
            fold = HistoryPrior.of(table, config)
    return Program(HistoryNewcomer(trained, fold), {"history": (length,)})
