"""Loops compiled by numba; kept on disk only in a folder that somebody named.

In: a function of a few arrays. Out: the same, compiled when it is first called. A compiled loop on
disk is a pickle, which whoever can write there can make do anything: no folder of ours is searched
for one. ``NUMBA_CACHE_DIR`` names one, and spares each process up to ten seconds of a core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import config, njit


def compiled(*signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` with these arguments, and a cache where one is wanted."""
    decorate: Callable[[Callable[..., Any]], Any] = njit(
        *signature, cache=bool(config.CACHE_DIR), **options
    )
    return decorate
