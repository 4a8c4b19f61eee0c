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
    """

    def __init__(self, scores: nn.Module, query: nn.Module, item: nn.Module) -> None:
        super().__init__()
        self.scores, self.query, self.item = scores, query, item

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Scores ``[n]`` of pairs."""
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
        lists: what is added to the products of their vectors.
    """

    def __init__(
        self, scores: nn.Module, query: nn.Module, item: nn.Module, lists: ListScores
    ) -> None:
        super().__init__(scores, query, item)
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
