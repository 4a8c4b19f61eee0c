"""What items beside a bundle's cost: an answer, and the next item that comes.

    python -m benchmarks.new_items --items 200000 --new 10000

In a generated catalogue with an exact index, in this process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.index_recall import generated
from cadc_rec.data.user_items import UserItems
from cadc_rec.serving.predict.catalogue import CodedAttribute
from cadc_rec.serving.predict.ids import IdMap
from cadc_rec.serving.predict.new_items import PutItem
from cadc_rec.serving.predict.numbers import NumericAttribute
from cadc_rec.serving.predict.predictor import Predictor
from cadc_rec.serving.predict.top_k import ItemVectors, load_ahead

_USERS, _TIMES = 1000, 200


def _milliseconds(work: Callable[[int], Any], times: int = _TIMES) -> float:
    """The median of what it takes."""
    took = []
    for n in range(times):
        began = time.perf_counter()
        work(n)
        took.append(time.perf_counter() - began)
    return float(np.median(took)) * 1e3


def _answers(predictor: Predictor) -> str:
    plain = _milliseconds(lambda n: predictor.recommend([n % _USERS], 10))
    few = _milliseconds(lambda n: predictor.recommend([n % _USERS], 10, filter={"kind": [7]}))
    return f"one user {plain:.2f} ms, of one value in a hundred {few:.2f} ms"


def main(
    items: Annotated[int, typer.Option()] = 200_000,
    new: Annotated[int, typer.Option()] = 10_000,
    width: Annotated[int, typer.Option()] = 64,
) -> None:
    """Ask before and after, and put one more."""
    vectors, users = generated(items + new, _USERS, width)
    of_bundle, numbers = ItemVectors(vectors[:items]), np.arange(items)
    load_ahead()
    kinds = CodedAttribute(
        "kind", {n: n + 1 for n in range(100)}, np.arange(items + 1),
        (numbers % 100 + 1).astype(np.int32),
    )  # fmt: skip
    bundle = Predictor(
        users=IdMap("user", np.arange(_USERS)),
        items=IdMap("item", numbers),
        user_vectors=users,
        item_vectors=of_bundle,
        known=UserItems(np.zeros(_USERS + 1, np.int64), np.zeros(0, np.int32)),
        popularity=np.zeros(items, np.int64),
        retrieval=of_bundle,
        attributes={"kind": kinds, "price": NumericAttribute("price", numbers.astype(float))},
    )
    now = bundle.with_items([PutItem(items + n, vector=vectors[items + n]) for n in range(new)])
    assert now.recommend(range(100), 10).rows.max() >= items, "the new ones are among the best"
    for name, predictor in (("without", bundle), (f"with {new:,}", now)):
        print(f"{name}: {_answers(predictor)}")
    more = PutItem(-1, vector=vectors[0])
    print(f"one more comes in {_milliseconds(lambda _: now.with_items([more]), 20):.1f} ms")


if __name__ == "__main__":
    typer.run(main)
