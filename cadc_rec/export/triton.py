"""A Triton model repository of the towers, for Triton's libtorch backend.

In: a trained model. Out: ``query`` and ``item``, float TorchScript that needs torch alone, and
``score``, the scripted TorchRec module, which needs fbgemm's operators preloaded. Tensors are named
by position (``INPUT__0``), as that backend has it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from cadc_rec.export.predict import ANSWER, LENGTHS, VALUES, TwoTowerPredictFactory
from cadc_rec.export.programs import Program, tower_programs
from cadc_rec.export.trained import TrainedModel
from cadc_rec.store.atomic import commit, folder_to_fill

_MAX_BATCH = 1024
_QUEUE_MICROSECONDS = 500

_HEADER = """name: "{name}"
platform: "pytorch_libtorch"
max_batch_size: {batch}
"""
_TENSORS = """{kind} [
{tensors}
]
"""
_TENSOR = """  {{
    name: "{name}"
    data_type: {type}
    dims: [ {dims} ]
  }}"""
_BATCHING = """dynamic_batching {{
  max_queue_delay_microseconds: {delay}
}}
"""
_PLACE = """instance_group [
  {
    count: 1
    kind: KIND_CPU
  }
]
"""


class _ByPosition(nn.Module):
    """A program whose ids come as ``[n, 1]``: Triton's batches have a dimension below the batch."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.module = program.module
        self.flat = [not shape for shape in program.inputs.values()]

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        given = [x[:, 0] if flat else x for x, flat in zip(inputs, self.flat, strict=True)]
        vectors: torch.Tensor = self.module(*given)
        return vectors


class _ScoreByPosition(nn.Module):
    """The predict module with two tensors in place of a dictionary."""

    def __init__(self, scripted: nn.Module) -> None:
        super().__init__()
        self.scripted, self.lengths, self.values = scripted, LENGTHS, VALUES
        self.answer = ANSWER

    def forward(self, lengths: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        answer: dict[str, torch.Tensor] = self.scripted(
            {self.lengths: lengths, self.values: values}
        )
        return answer[self.answer]


def write_repository(
    trained: TrainedModel, folder: Path, precision: str = "int8", *, replace: bool = False
) -> None:
    """Write the model repository, whole or not at all.

    Args:
        trained: the model.
        folder: what Triton is given as ``--model-repository``.
        precision: of the tables of ``score``.
        replace: whether a folder that is there may be replaced.

    Raises:
        CadcError: the folder is there, or cannot be written.
    """
    with folder_to_fill(folder, replace=replace) as draft:
        for name, program in tower_programs(trained).items():
            example = [
                torch.zeros(3, *(shape or (1,)), dtype=torch.int64)
                for shape in program.inputs.values()
            ]
            module = torch.jit.trace(  # unchecked, see `predict`
                _ByPosition(program).eval(), tuple(example), check_trace=False
            )
            width = module(*example).shape[1]
            dims = [[shape[0] if shape else 1] for shape in program.inputs.values()]
            inputs = [("TYPE_INT64", shape) for shape in dims]
            config = config_text(name, inputs, ("TYPE_FP32", [width]), _MAX_BATCH)
            _write_model(draft / name, module, config)
        scripted = TwoTowerPredictFactory(trained, precision).scripted()
        score = torch.jit.script(_ScoreByPosition(scripted))
        # Rows of a jagged batch lie side by side by feature: Triton cannot join such batches.
        inputs = [("TYPE_INT32", [-1]), ("TYPE_INT64", [-1])]
        config = config_text("score", inputs, ("TYPE_FP32", [-1]), 0)
        _write_model(draft / "score", score, config)
        commit(draft, folder)


def config_text(
    name: str, inputs: list[tuple[str, list[int]]], output: tuple[str, list[int]], max_batch: int
) -> str:
    """``config.pbtxt`` of a model.

    Args:
        name: name of the model and of its folder.
        inputs: data type and dimensions of each, in the order of the module's arguments; below the
            batch where `max_batch` is more than 0.
        output: of the one output.
        max_batch: rows Triton may join; 0 where batches cannot be joined.
    """
    text = _HEADER.format(name=name, batch=max_batch)
    for kind, tensors in (("input", inputs), ("output", [output])):
        written = [
            _TENSOR.format(
                name=f"{kind.upper()}__{place}", type=of_type, dims=", ".join(map(str, dims))
            )
            for place, (of_type, dims) in enumerate(tensors)
        ]
        text += _TENSORS.format(kind=kind, tensors=",\n".join(written))
    if max_batch:
        text += _BATCHING.format(delay=_QUEUE_MICROSECONDS)
    return text + _PLACE


def _write_model(folder: Path, module: torch.jit.ScriptModule, config: str) -> None:
    (folder / "1").mkdir(parents=True)
    torch.jit.save(module, folder / "1" / "model.pt")
    (folder / "config.pbtxt").write_text(config, "utf-8")
