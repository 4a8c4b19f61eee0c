"""What a filter, candidates and rules cost, in a generated catalogue.

    OMP_NUM_THREADS=1 python -m benchmarks.choosing --items 2000000      # all items are looked at
    OMP_NUM_THREADS=1 python -m benchmarks.choosing --items 2000000 --index hnsw

Each line is one user's request to a predictor in this process, beside the plain request for all
items. Sellers have about 200 items each; a year is one of a hundred; genres are one of twenty.
Times are of the CPU, which other work on the machine changes little; with one thread an idle
machine takes as long.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import faiss
import numpy as np
import pyarrow as pa
import torch
import typer

from benchmarks.index_recall import generated
from benchmarks.serving import spread
from cadc_rec.data.user_items import UserItems
from cadc_rec.export.index import IndexKind, write_index
from cadc_rec.serving.predict.catalogue import CodedAttribute
from cadc_rec.serving.predict.ids import IdMap
from cadc_rec.serving.predict.numbers import NumericAttribute
from cadc_rec.serving.predict.predictor import Predictor
from cadc_rec.serving.predict.retrieval import IndexSearch, Retrieval
from cadc_rec.serving.predict.rules import Boost, Rules
from cadc_rec.serving.predict.top_k import ItemVectors, load_ahead

_K, _USERS, _TAKEN = 10, 500, 20
_OF_A_SELLER, _YEARS, _GENRES = 200, 100, 20


def predictor_of(items: int, width: int, index: IndexKind) -> Predictor:
    """A predictor of generated vectors."""
    vectors, users = generated(items, _USERS, width)
    draw = np.random.default_rng(1)
    searched = ItemVectors(vectors)
    taken = draw.integers(0, items, (_USERS, _TAKEN)).astype(np.int32)
    sellers = items // _OF_A_SELLER

    def coded(name: str, codes: int) -> CodedAttribute:
        column = pa.array(draw.integers(1, codes + 1, items).astype(np.int32))
        return CodedAttribute.of_column(name, column, [f"{name} {n}" for n in range(codes)])

    return Predictor(
        users=IdMap("user", np.arange(_USERS)),
        items=IdMap("item", np.arange(items)),
        user_vectors=users,
        item_vectors=searched,
        known=UserItems(np.arange(_USERS + 1) * _TAKEN, taken.ravel()),
        popularity=np.bincount(taken.ravel(), minlength=items),
        retrieval=_retrieval(searched, index),
        attributes={
            "seller": coded("seller", sellers),
            "genre": coded("genre", _GENRES),
            "year": NumericAttribute("year", draw.integers(1, _YEARS + 1, items).astype(float)),
        },
    )


def _retrieval(items: ItemVectors, kind: IndexKind) -> Retrieval:
    if kind == "exact":
        return items
    with TemporaryDirectory() as folder:
        file = Path(folder) / "items.faiss"
        write_index(items.vectors, kind, file)
        return IndexSearch(faiss.deserialize_index(np.fromfile(file, np.uint8)), items)


def requests(items: int) -> Mapping[str, dict[str, Any]]:
    """What is asked for, by what it is called."""
    draw = np.random.default_rng(2)
    few, many = (draw.choice(items, n, replace=False).tolist() for n in (200, 2000))
    boost = Boost({"genre": ["genre 3"]}, 0.5)
    one_seller = {"seller": ["seller 7"]}
    return {
        "all items": {},
        "200 candidates": {"candidates": few},
        "2,000 candidates": {"candidates": many},
        "one seller (200 items)": {"filter": one_seller},
        "one seller, years 40 to 59": {"filter": {**one_seller, "year": {">=": 40, "<": 60}}},
        "one genre, one year (1,000 of 2 million)": {"filter": {"genre": ["genre 3"], "year": [7]}},
        "one year (1 in 100)": {"filter": {"year": [7]}},
        "all genres but one (19 in 20)": {"filter": {"genre": {"not in": ["genre 3"]}}},
        "years from 51 (1 in 2)": {"filter": {"year": {">": 50}}},
        "1,000 blocked": {"block": many[:1000]},
        "at most 2 of a genre": {"rules": Rules(max_per={"genre": 2})},
        "diversity": {"rules": Rules(diversity=0.3)},
        "a boost": {"rules": Rules(boosts=[boost])},
    }


def main(
    items: Annotated[int, typer.Option()] = 2_000_000,
    width: Annotated[int, typer.Option()] = 64,
    index: Annotated[IndexKind, typer.Option()] = "exact",
    times: Annotated[int, typer.Option(help="Requests of each kind.")] = 200,
) -> None:
    """Ask each kind of request, one after the other."""
    torch.set_num_threads(1)  # as the service does
    load_ahead()
    predictor = predictor_of(items, width, index)
    print(f"{items:,} items of {width}, {index}, one user, top {_K}")
    for name, arguments in requests(items).items():
        taken = np.empty(times)
        for n in range(-(times // 10), times):  # the first ones do not count
            began = time.thread_time()
            predictor.recommend([n % _USERS], _K, **arguments)
            taken[max(n, 0)] = 1000 * (time.thread_time() - began)
        print(f"{name}: {spread(taken)}")


if __name__ == "__main__":
    typer.run(main)
