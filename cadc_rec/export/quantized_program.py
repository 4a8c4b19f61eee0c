"""The pair scores over quantized tables as a `torch.export` program, beside the scripted module.

In: a predict module's eager parts. Out: a program that takes lengths and values, for any number of
rows. fbgemm's lookup modules hold objects of C++ that `torch.export` cannot trace (a queue, a
counter: both of caches on a GPU, which tables in memory have no use for). So each is replaced by
the operator it ends in, over the same weights.
"""

from typing import Any

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
    IntNBitTableBatchedEmbeddingBagsCodegen,
)
from torch import nn
from torchrec import KeyedJaggedTensor

_TENSORS = (
    *("weights_host", "weights_dev", "weights_uvm", "weights_placements", "weights_offsets"),
    *("weights_tys", "D_offsets", "lxu_cache_weights"),
)
_NUMBERS = (
    *("total_D", "max_int2_D", "max_int4_D", "max_int8_D", "max_float16_D", "max_float32_D"),
    *("max_float8_D", "output_dtype", "row_alignment", "fp8_exponent_bits", "fp8_exponent_bias"),
)


class OperatorLookup(nn.Module):
    """Quantized tables behind fbgemm's operator alone.

    Args:
        tables: whose weights they are; of tables whose rows are all in memory.
    """

    def __init__(self, tables: IntNBitTableBatchedEmbeddingBagsCodegen) -> None:
        super().__init__()
        for name in _TENSORS:
            self.register_buffer(name, getattr(tables, name).clone())
        self.register_buffer("nowhere", torch.empty(0, dtype=torch.int32))
        self.on_host = tables.host_size > 0
        self.pooling_mode = int(tables.pooling_mode)
        self.numbers = {name: int(getattr(tables, name)) for name in _NUMBERS}

    def forward(
        self,
        indices: torch.Tensor,
        offsets: torch.Tensor,
        per_sample_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the module gives that it stands for, of ids within the tables."""
        found: torch.Tensor = torch.ops.fbgemm.int_nbit_split_embedding_codegen_lookup_function(
            dev_weights=self.weights_host if self.on_host else self.weights_dev,
            uvm_weights=self.weights_uvm,
            weights_placements=self.weights_placements,
            weights_offsets=self.weights_offsets,
            weights_tys=self.weights_tys,
            D_offsets=self.D_offsets,
            indices=indices,
            offsets=offsets,
            pooling_mode=self.pooling_mode,
            indice_weights=per_sample_weights,
            lxu_cache_weights=self.lxu_cache_weights,
            lxu_cache_locations=self.nowhere,
            **self.numbers,
        )
        return found


class _Scores(nn.Module):
    """Lengths and values to scores ``[n]``.

    Args:
        module: a predict module whose lookups are operators.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.keys, self.known, self.scores = module.keys, module.known, module._module

    def forward(self, lengths: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        lengths, values = self.known(lengths, values)
        request = KeyedJaggedTensor(keys=self.keys, values=values, lengths=lengths)
        scores: torch.Tensor = self.scores(request).float()
        return scores


def quantized_program(module: nn.Module) -> torch.export.ExportedProgram:
    """The program of a predict module, which is changed on the way.

    Args:
        module: what `TwoTowerPredictFactory.create_predict_module` made, not yet traced, on one
            device.
    """
    for part in list(module.modules()):
        lookups = getattr(part, "_emb_modules", None)
        if lookups is not None:  # TorchRec's collection calls these and registers them as well
            operators = [OperatorLookup(each) for each in lookups]
            vars(part)["_emb_modules"] = operators
            part.tbes = nn.ModuleList(operators)
            part.embedding_bags = nn.ModuleDict()  # the same weights, once more
    scores = _Scores(module).eval()
    n = 2 * len(scores.keys)
    lengths, values = torch.ones(n, dtype=torch.int32), torch.zeros(n, dtype=torch.int64)
    any_size = {0: torch.export.Dim.AUTO}
    # Without it torch would fix that there are two rows or more.
    one_row_too = torch.fx.experimental._config.patch(  # type: ignore[attr-defined]  # made at import
        backed_size_oblivious=True
    )
    with torch.no_grad(), one_row_too:
        return torch.export.export(scores, (lengths, values), dynamic_shapes=(any_size, any_size))
