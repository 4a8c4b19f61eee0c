"""The project's own code on the device against the CPU: training, pre-training, ranking, caches.

python -m tools.gpu.project        # CHECK_DEVICE=cpu tries it without a GPU

Every id embedding is trained under every sharding on a toy dataset, and must lose what it loses on
the CPU: to 2e-4 in float32, to 2e-2 in bfloat16. Divided tables have the CPU's optimizer for that;
under their own, fused Adam, the losses are those of a training that sends no ids ahead.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from cadc_rec.config.running import ComputeConfig
from cadc_rec.data.user_items import UserItems
from cadc_rec.distributed.processes import Processes, processes
from cadc_rec.evaluation.ranking import held_out_ranks
from cadc_rec.training import tables
from tools.gpu.checks import Checks, device

toy: Any = importlib.import_module("tests.distributed.toy")  # tests have no types to check

KINDS = ("data_parallel", "table_wise", "column_wise", "row_wise", "table_row_wise")
ON_CPU = KINDS[:3]  # TorchRec has no others there
IDS = (
    "init_frozen",
    "whole-init_frozen",
    "sorted-init_frozen",
    "trainable",
    "init",
    "hybrid",
    "linear",
    "residual",
    "history",
    "prior",
    "bfloat16-init_frozen",
)


def like(kind: str) -> str:
    """The sharding on the CPU to compare with: replicated and sharded tables train differently."""
    return kind if kind == "data_parallel" else "table_wise"


def trained(ids: str, kind: str, on: Processes, wanted: dict[str, Any]) -> list[float]:
    with optimizer_of_cpu():
        found = toy.train(ids, kind, on)
    assert found["intact"], "a frozen table changed"
    tolerance = 2e-2 if ids.startswith(toy.HALF) else 2e-4
    np.testing.assert_allclose(found["loss"], wanted["loss"], rtol=tolerance, atol=1e-4)
    return [round(loss, 6) for loss in found["loss"]]


def ahead(kind: str, on: Processes) -> None:
    """Ids that are sent ahead on streams of their own, and fused Adam, change nothing and learn."""
    each, sent = (toy.train("trainable", kind, on, ahead=which) for which in (False, True))
    np.testing.assert_allclose(sent["loss"], each["loss"], rtol=1e-6)
    np.testing.assert_allclose(sent["vectors"], each["vectors"], rtol=1e-5, atol=1e-5)
    assert each["loss"][1] < each["loss"][0], "it does not learn"


@contextlib.contextmanager
def optimizer_of_cpu() -> Iterator[None]:
    """Divided tables are trained as on the CPU, which has no fused Adam to compare with."""
    of_device = tables.fused_optimizer
    tables.fused_optimizer = lambda config, device: of_device(config, "cpu")
    try:
        yield
    finally:
        tables.fused_optimizer = of_device


def replayed(ids: str, on: Processes) -> list[float]:
    """Steps as CUDA graphs against steps launched operator by operator, with dropout in both."""
    graphs = "on" if on.device.type == "cuda" else "auto"
    found, eager = (toy.train(ids, "data_parallel", on, graphs=each) for each in (graphs, "off"))
    # Sums by atomic additions differ in their last bits from one run to the next.
    np.testing.assert_allclose(found["loss"], eager["loss"], rtol=1e-5, atol=1e-6)
    return [round(loss, 6) for loss in found["loss"]]


def pretrained(on: Processes, wanted: dict[str, Any]) -> None:
    found = toy.pretraining(on)
    for name in ("factorize", "partitioned", "softmax", "als"):
        for mine, table in zip(found[name], wanted[name], strict=True):
            np.testing.assert_allclose(mine, table, rtol=1e-2, atol=1e-3, err_msg=name)
    np.testing.assert_allclose(found["neural"]["loss"], wanted["neural"]["loss"], rtol=1e-3)


def ranked(on: torch.device) -> None:
    draw, users, items = np.random.default_rng(0), 500, 3000
    made = torch.Generator().manual_seed(0)
    user, item = (torch.randn(n, 64, generator=made) for n in (users, items))
    known = np.sort(draw.integers(100, items, (users, 5)).astype(np.int32), 1)
    excluded = UserItems(np.arange(users + 1) * 5, known.ravel())
    held_out = draw.integers(0, 100, users)
    of_cpu = held_out_ranks(user, item, held_out, excluded)
    found = held_out_ranks(user.to(on), item.to(on), held_out, excluded)
    np.testing.assert_array_equal(found, of_cpu)


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    on, checks = device(), Checks()
    with processes(ComputeConfig(device="cpu")) as cpu:
        wanted = {
            (ids, kind): toy.train(ids, kind, cpu)
            for ids in IDS
            for kind in dict.fromkeys(map(like, KINDS))
        }
        found = toy.pretraining(cpu)
    with processes(ComputeConfig(device=on.type)) as mine:  # type: ignore[arg-type]
        for ids in IDS:
            for kind in KINDS if on.type == "cuda" else ON_CPU:
                checks.run(
                    f"train {ids} {kind}",
                    lambda i=ids, k=kind: trained(i, k, mine, wanted[i, like(k)]),  # type: ignore[misc]
                )
        for kind in KINDS[1:] if on.type == "cuda" else ON_CPU[1:]:
            checks.run(f"ids sent ahead {kind}", lambda k=kind: ahead(k, mine))  # type: ignore[misc]
        for ids in IDS:
            checks.run(f"CUDA graphs {ids}", lambda i=ids: replayed(i, mine))  # type: ignore[misc]
        checks.run("pre-training: MF, softmax, ALS, MLP", lambda: pretrained(mine, found))
        checks.run("full ranking is the CPU's, rank by rank", lambda: ranked(on))
    checks.end()


if __name__ == "__main__":
    main()
