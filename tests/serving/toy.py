"""A predictor of a handful of users and items, made from arrays."""

import numpy as np

from cadc_rec.data.user_items import UserItems
from cadc_rec.serving.predict.catalogue import CodedAttribute
from cadc_rec.serving.predict.ids import IdMap
from cadc_rec.serving.predict.numbers import NumericAttribute
from cadc_rec.serving.predict.predictor import Predictor
from cadc_rec.serving.predict.top_k import ItemVectors, load_ahead


def toy(
    n_users=20,
    n_items=50,
    dim=8,
    seed=0,
    text_ids=False,
    newcomers=None,
    retrieval=None,
    untaken=0,
):
    """Users 100, 101, ... (or ``u0``, ...), items 1000, 1001, ... (or ``i0``, ...).

    User u took 3 + u % 5 items, none of the last `untaken`; item n has the attribute kind = n % 4,
    tags n % 2, n % 3, and, unless 7 divides n, the year 1980 + n % 11.
    """
    load_ahead()
    draw = np.random.default_rng(seed)
    users = draw.standard_normal((n_users, dim)).astype(np.float32)
    items = draw.standard_normal((n_items, dim)).astype(np.float32)
    taken = [draw.permutation(n_items - untaken)[: 3 + u % 5] for u in range(n_users)]
    indptr = np.concatenate([[0], np.cumsum([len(t) for t in taken])])
    flat = np.concatenate(taken).astype(np.int32)
    numbers = np.arange(n_items)
    vectors = ItemVectors(items)
    searched = ItemVectors(items[: n_items - untaken]) if untaken else vectors
    return Predictor(
        users=IdMap("user", np.array([f"u{n}" for n in range(n_users)], object))
        if text_ids
        else IdMap("user", 100 + np.arange(n_users)),
        items=IdMap("item", np.array([f"i{n}" for n in range(n_items)], object))
        if text_ids
        else IdMap("item", 1000 + numbers),
        user_vectors=users,
        item_vectors=vectors,
        known=UserItems(indptr, flat),
        popularity=np.bincount(flat, minlength=n_items),
        retrieval=retrieval(searched) if retrieval else searched,
        untaken=untaken,
        newcomers=newcomers,
        history_length=4,
        attributes={
            "kind": CodedAttribute(
                "kind",
                {f"kind {n}": n + 1 for n in range(4)},
                np.arange(n_items + 1),
                (numbers % 4 + 1).astype(np.int32),
            ),
            "tags": CodedAttribute(
                "tags",
                {"even": 1, "odd": 2, "third": 3},
                np.arange(n_items + 1) * 2,
                np.stack([numbers % 2 + 1, np.where(numbers % 3 == 0, 3, 0)], 1)
                .ravel()
                .astype(np.int32),
            ),
            "year": NumericAttribute("year", np.where(numbers % 7, 1980.0 + numbers % 11, np.nan)),
        },
        titles=[f"Title {n}" if n else None for n in range(n_items)],
        fingerprint="f" * 64,
        name="toy",
    )


def ranking(predictor, query, without=()):
    """All item rows, the best first, by float64 and by hand."""
    scores = predictor.item_vectors.vectors.astype(np.float64) @ query.astype(np.float64)
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    return [row for row in order if row not in set(without)], scores
