"""fbgemm and TorchRec on this device against plain torch: every kernel that the project uses.

python -m tools.gpu.stack          # CHECK_DEVICE=cpu tries it without a GPU
"""

from __future__ import annotations

from collections.abc import Callable

import fbgemm_gpu
import torch
import torchrec
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    DenseTableBatchedEmbeddingBagsCodegen,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.inference.modules import quantize_inference_model

from tools.gpu.checks import Checks, device

ROWS, DIM, LOOKUPS, RATE = 1000, 96, 4096, 0.05
Update = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def sgd(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return weight - RATE * gradient


def rowwise_adagrad(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    mean = gradient.square().mean(1, keepdim=True)
    return weight - RATE * gradient / (mean.sqrt() + 1e-8)


def adam(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Adam's first step: its two averages, corrected, are the gradient and its square."""
    return weight - RATE * gradient / (gradient.square().sqrt() + 1e-8)


UPDATES: dict[str, Update] = {
    "EXACT_SGD": sgd,
    "EXACT_ROWWISE_ADAGRAD": rowwise_adagrad,
    "ADAM": adam,
}


class Lookups:
    """Random lookups of one table, and what plain torch makes of them."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.ids = torch.randint(0, ROWS, (LOOKUPS,), generator=draw)
        self.offsets = torch.arange(LOOKUPS + 1)
        self.gradient = torch.randn(LOOKUPS, DIM, generator=draw)
        self.start = torch.randn(ROWS, DIM, generator=draw)
        self.summed = torch.zeros(ROWS, DIM).index_add(0, self.ids, self.gradient)

    def updated(self, step: Update) -> torch.Tensor:
        """The table after one step; a row that nobody looked up stays."""
        seen = torch.bincount(self.ids, minlength=ROWS).bool()[:, None]
        return torch.where(seen, step(self.start, self.summed), self.start)


def fused(asked: Lookups, optimizer: str, location: str, on: torch.device) -> None:
    cuda = on.type == "cuda"
    place = ComputeDevice.CUDA if cuda else ComputeDevice.CPU
    table = SplitTableBatchedEmbeddingBagsCodegen(
        [(ROWS, DIM, EmbeddingLocation[location], place)],
        optimizer=EmbOptimType[optimizer],
        learning_rate=RATE,
        eps=1e-8,
        cache_load_factor=0.2,
        device=on,
    )
    table.split_embedding_weights()[0].copy_(asked.start)
    found = table(asked.ids.to(on), asked.offsets.to(on))
    torch.testing.assert_close(found.detach().cpu(), asked.start[asked.ids])
    found.backward(asked.gradient.to(on))
    table.flush()  # rows of a cache return to their table
    weight = table.split_embedding_weights()[0].detach().cpu()
    torch.testing.assert_close(weight, asked.updated(UPDATES[optimizer]), rtol=2e-3, atol=2e-4)


def weighted(asked: Lookups, on: torch.device) -> None:
    """Sums of two rows each by weights, as of attributes that are padded to one length."""
    cuda = on.type == "cuda"
    place = ComputeDevice.CUDA if cuda else ComputeDevice.CPU
    table = SplitTableBatchedEmbeddingBagsCodegen(
        [(ROWS, DIM, EmbeddingLocation.DEVICE if cuda else EmbeddingLocation.HOST, place)],
        optimizer=EmbOptimType.EXACT_SGD,
        learning_rate=RATE,
        device=on,
    )
    table.split_embedding_weights()[0].copy_(asked.start)
    weights = torch.rand(LOOKUPS, generator=torch.Generator().manual_seed(2))
    found = table(asked.ids.to(on), asked.offsets[::2].to(on), weights.to(on))
    wanted = (weights[:, None] * asked.start[asked.ids]).view(-1, 2, DIM).sum(1)
    torch.testing.assert_close(found.detach().cpu(), wanted, rtol=1e-4, atol=1e-4)
    gradient = asked.gradient[::2]
    found.backward(gradient.to(on))
    each = weights[:, None] * gradient.repeat_interleave(2, 0)
    summed = torch.zeros(ROWS, DIM).index_add(0, asked.ids, each)
    mine = table.split_embedding_weights()[0].detach().cpu()
    torch.testing.assert_close(mine, sgd(asked.start, summed), rtol=2e-3, atol=2e-4)


def dense(asked: Lookups, on: torch.device) -> None:
    table = DenseTableBatchedEmbeddingBagsCodegen([(ROWS, DIM)], use_cpu=on.type != "cuda").to(on)
    with torch.no_grad():
        table.split_embedding_weights()[0].copy_(asked.start)
    table(asked.ids.to(on), asked.offsets.to(on)).backward(asked.gradient.to(on))
    found = table.weights.grad.view(ROWS, DIM).cpu()
    torch.testing.assert_close(found, asked.summed, rtol=1e-4, atol=1e-4)


def jagged(on: torch.device) -> None:
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(0, 5, (3, 64), dtype=torch.int32, generator=draw)
    count = int(lengths.sum())
    values = torch.randint(0, ROWS, (count,), generator=draw)
    order, bounds = torch.tensor([2, 0, 1], dtype=torch.int32), torch.tensor([250] * 3)
    permuted, bucketized = [], []
    for at in (torch.device("cpu"), on):
        ops = torch.ops.fbgemm
        mine = lengths.to(at), values.to(at)
        permuted.append(ops.permute_2D_sparse_data(order.to(at), *mine, None, count))
        flat = lengths.flatten().to(at), values.to(at)
        bucketized.append(
            ops.block_bucketize_sparse_features(*flat, False, False, bounds.to(at), 4)
        )
    for one, other in zip(permuted[0][:2], permuted[1][:2], strict=True):
        torch.testing.assert_close(one, other.cpu())
    torch.testing.assert_close(bucketized[0][0], bucketized[1][0].cpu())
    offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(lengths[0].to(on))
    rows = torch.randn(int(lengths[0].sum()), 8, device=on)
    padded = torch.ops.fbgemm.jagged_to_padded_dense(rows, [offsets], [5], 0.0)
    assert padded.shape == (64, 5, 8)


def quantized(asked: Lookups, on: torch.device) -> None:
    config = EmbeddingBagConfig(
        name="t", feature_names=["t"], num_embeddings=ROWS, embedding_dim=DIM
    )
    tables = EmbeddingBagCollection(tables=[config], device=torch.device("cpu"))
    with torch.no_grad():
        tables.embedding_bags["t"].weight.copy_(asked.start)
    made = torch.nn.ModuleDict({"e": tables})
    int8 = quantize_inference_model(made, quantization_dtype=torch.qint8)["e"]
    one = torch.ones(LOOKUPS, dtype=torch.int32)
    keyed = KeyedJaggedTensor(keys=["t"], values=asked.ids, lengths=one)
    wanted = int8(keyed).values().float()
    found = int8.to(on)(keyed.to(on)).values().float().cpu()
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(wanted, asked.start[asked.ids], rtol=0.1, atol=0.05)


def main() -> None:
    on, asked, checks = device(), Lookups(), Checks()
    print("torch", torch.__version__, "fbgemm", fbgemm_gpu.__version__, torchrec.__file__)
    if on.type == "cuda":
        card = torch.cuda.get_device_properties(on)
        memory = card.total_memory / 2**30
        print(f"{card.name}, {memory:.0f} GiB, sm_{card.major}{card.minor}")
    places = ("DEVICE", "MANAGED", "MANAGED_CACHING") if on.type == "cuda" else ("HOST",)
    for optimizer in UPDATES:
        for place in places:
            if on.type == "cuda" or optimizer != "ADAM":  # the CPU's tables have no Adam
                checks.run(
                    f"TBE {optimizer} {place}",
                    lambda o=optimizer, p=place: fused(asked, o, p, on),  # type: ignore[misc]
                )
    checks.run("TBE of weighted sums", lambda: weighted(asked, on))
    checks.run("dense TBE (tables with a copy on each process)", lambda: dense(asked, on))
    checks.run("jagged: sums, permute, bucketize, padded", lambda: jagged(on))
    checks.run("int8 tables of a served model", lambda: quantized(asked, on))
    checks.end()


if __name__ == "__main__":
    main()
