"""Loops compiled by numba; they are kept on disk only in a folder that the user names.

In: a function of a few arrays. Out: the same function, compiled when it is first called. numba
stores compiled loops as pickles, which can run code when they are read, so by default none are
stored or read. If ``NUMBA_CACHE_DIR`` names a folder, a process saves up to ten seconds of a core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import config, njit


def compiled(*signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` with these arguments, and with a cache if the user names a folder for it."""
    decorate: Callable[[Callable[..., Any]], Any] = njit(
        *signature, cache=bool(config.CACHE_DIR), **options
    )
    return decorate
