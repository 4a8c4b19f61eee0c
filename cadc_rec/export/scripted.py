"""The one module that a process without Python loads: each method takes and gives a dictionary.

In: scripted parts. Out: modules to be scripted. The keys stand in the code as `predict` names them:
TorchScript reads no constants of a file.
"""

import torch
from torch import nn

from cadc_rec.export.lists import ListScores


class ScriptedTwoTower(nn.Module):
    """One scripted module with three methods over the same tables.

    Each takes and returns the same as `TwoTowerPredictModule.predict_forward`.

    Args:
        scores: scripted pair scores; its requests have the features of both sides.
        query: the scripted user tower; those of users alone.
        item: the scripted item tower; those of items alone.
        features: of a request for scores.
    """

    def __init__(self, scores: nn.Module, query: nn.Module, item: nn.Module, features: int) -> None:
        super().__init__()
        self.scores, self.query, self.item = scores, query, item
        self.features = features

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Scores ``[n]`` of pairs.

        TorchRec's server sends floats with each row, one or more, and counts rows by them. Before
        it listens it asks once, whatever the model, with one row of 13 floats and 26 features of
        one id each. Of a model with other features that is no request, and the answer is NaN.
        """
        if "float_features" in batch:
            floats, lengths = batch["float_features"], batch["id_list_features.lengths"]
            if floats.dim() == 2 and floats.size(1) > 0:
                wanted = floats.size(0) * self.features
                if lengths.numel() != wanted:
                    first = floats.size(0) == 1 and floats.size(1) == 13 and lengths.numel() == 26
                    assert first, "float_features has another number of rows than lengths"
                    return {"default": torch.full([1], float("nan"))}
        scores: dict[str, torch.Tensor] = self.scores(batch)
        return scores

    @torch.jit.export
    def query_vectors(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Vectors ``[n, d]`` of users."""
        vectors: dict[str, torch.Tensor] = self.query(batch)
        return vectors

    @torch.jit.export
    def item_vectors(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Vectors ``[n, d]`` of items."""
        vectors: dict[str, torch.Tensor] = self.item(batch)
        return vectors


class ScriptedWithLists(ScriptedTwoTower):
    """The same of a model whose pair scores have those of lists in them, with these by themselves.

    Args:
        scores: scripted pair scores, lists included.
        query: the scripted user tower.
        item: the scripted item tower.
        features: of a request for scores.
        lists: what is added to the products of their vectors.
    """

    def __init__(
        self,
        scores: nn.Module,
        query: nn.Module,
        item: nn.Module,
        features: int,
        lists: ListScores,
    ) -> None:
        super().__init__(scores, query, item, features)
        self.lists = lists

    @torch.jit.export
    def list_scores(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Scores ``[candidates]`` of lists: of the features history and item, any number a row."""
        lengths, values = batch["id_list_features.lengths"], batch["id_list_features.values"]
        of_history, of_items = lengths.chunk(2)
        n = int(of_history.sum())
        return {"default": self.lists(of_history, values[:n], of_items, values[n:])}

    @torch.jit.export
    def all_list_scores(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same ``[n, n_items]`` of all items; of the feature history."""
        lengths, values = batch["id_list_features.lengths"], batch["id_list_features.values"]
        return {"default": self.lists.of_all(lengths, values)}
