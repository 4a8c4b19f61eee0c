"""Other people's libraries: used where they are installed, named where they are not."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from cadc_rec.errors import CadcError


class MissingPeer(CadcError):
    """A library that a contender needs cannot be imported."""


def peer(module: str) -> Any:
    """The module of that name, without what it has to say while it loads.

    Raises:
        MissingPeer: it, or something it needs, is not installed or does not run here.
    """
    try:
        with quiet():
            return import_module(module)
    except ModuleNotFoundError as error:
        root = module.split(".")[0]
        needed = str(error.name or "").split(".")[0]
        raise MissingPeer(
            "not installed" if needed == root else f"not installed: it needs {needed}"
        ) from None
    except Exception as error:  # built for another NumPy, say
        raise MissingPeer(f"cannot be imported ({type(error).__name__}: {error})") from None


@contextlib.contextmanager
def threads_of_its_own() -> Iterator[None]:
    """Within, BLAS runs in one thread: implicit has threads of its own, and says both are slow."""
    with peer("threadpoolctl").threadpool_limits(1, "blas"):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within, bars and prints of a peer go nowhere; drawing them is no work of ours to time."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
