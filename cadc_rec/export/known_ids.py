"""A request as a TorchRec predictor sends it, to one that the lookups take.

In: lengths and values of any integer type, on any device. Out: int32 and int64, where the tables
are, without the ids that no row has: such an id is unknown, its vector zero. fbgemm would read
row 0 for it, which is somebody's.
"""

from collections.abc import Sequence

import torch
from torch import nn


class KnownIds(nn.Module):
    """Leaves out the ids beyond the tables.

    Args:
        rows: of each feature's table, in the order of a request's features.
        device: where the tables are.
    """

    rows: torch.Tensor

    def __init__(self, rows: Sequence[int], device: str = "cpu") -> None:
        super().__init__()
        self.register_buffer("rows", torch.tensor(rows, dtype=torch.int64, device=device))

    def forward(
        self, lengths: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Lengths and values of the ids that have a row.

        Args:
            lengths: ``[features * n]``, all rows of the first feature first.
            values: ``[sum of lengths]``.
        """
        rows, features = self.rows, self.rows.numel()
        assert lengths.numel() % features == 0, "lengths: give one for each feature of each row"
        lengths = lengths.to(rows.device, torch.int32)
        values = values.to(rows.device, torch.int64)
        of_place = rows.repeat_interleave(lengths.numel() // features)
        limits = torch.repeat_interleave(of_place, lengths, output_size=values.numel())
        known = (values >= 0) & (values < limits)
        if bool(known.all()):
            return lengths, values
        places = torch.arange(lengths.numel(), device=rows.device)
        place = torch.repeat_interleave(places, lengths, output_size=values.numel())
        kept = torch.zeros_like(lengths).index_add(0, place, known.to(torch.int32))
        return kept, values[known]
