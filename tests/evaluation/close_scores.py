"""Vectors whose scores float32 cannot tell apart."""

import numpy as np

from cadc_rec.data.user_items import UserItems


def close_world(seed, scale=1.0, users=40, items=300, width=24):
    """Real vectors: a third of the items are another's twin, a third nearly so.

    The near twins differ from theirs in the last bit of one element, so their scores lie a
    hundred times closer together than float32 sums are exact.
    """
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(users, width)).astype(np.float32)
    v = rng.normal(size=(items, width)).astype(np.float32)
    third = items // 3
    v[third : 2 * third] = v[:third]
    v[2 * third : 3 * third] = v[:third]
    place = np.arange(third), rng.integers(0, width, third)
    near = v[2 * third : 3 * third]
    near[place] = np.nextafter(near[place], rng.choice([-9, 9], third).astype(np.float32))
    taken = [rng.choice(items, 11, replace=False) for _ in range(users)]
    targets = np.array([rng.choice(np.setdiff1d(np.arange(items), t)) for t in taken])
    targets[3] = -1
    indptr = np.arange(users + 1) * 11
    excluded = UserItems(indptr, np.concatenate(taken).astype(np.int32))
    return u * np.float32(scale), v * np.float32(scale), targets, excluded
