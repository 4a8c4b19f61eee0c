"""Vectors that are formed when users ask: by what they took just now, and by the moment.

In: rows of users, what they took, and codes of their requests. Out: a vector each, by a program of
the bundle: of known users the forward of training, on the items and codes that training would have
read; of newcomers, who have no row, what folds in a history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.request_codes import Codes, RequestCodes
from cadc_rec.errors import CadcError
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.programs import LazyProgram
from cadc_rec.serving.predict.top_k import Floats

if TYPE_CHECKING:
    import torch

    from cadc_rec.serving.bundle.bundle import Bundle


Newcomers = Callable[..., Floats]
"""Vectors ``[n, d]`` of histories: item rows ``[n, L]``, the latest first, -1 after the last; and,
where requests have a context, of its codes ``[n, features]``."""


@dataclass(frozen=True)
class Requests:
    """What forms vectors of known users.

    Attributes:
        codes: makes the codes of requests; None where the model reads no context.
        program: takes those that the model reads of int64 users ``[n]``, histories ``[n, L]`` and
            codes ``[n, features]``, in this order, and gives vectors ``[n, d]``.
        history_length: L, 0 without a history.
        by_user: whether the program takes users; a model of tables alone knows them by what they
            took.
    """

    codes: RequestCodes | None
    program: Callable[..., torch.Tensor]
    history_length: int
    by_user: bool = True

    @classmethod
    def of_bundle(cls, bundle: Bundle, model: Mapping[str, Any]) -> Self | None:
        """Those of a bundle; None where its users have one vector, whatever a request says.

        Raises:
            CadcError: its parts do not fit each other.
        """
        context = bundle.has(layout.CONTEXT)
        name = "query" if context else model.get("sessions")  # older bundles do not say
        if name is None:
            return None
        described = {one["name"]: one for one in model["programs"][name]["inputs"]}
        codes = None
        if context:
            arrays = bundle.arrays(layout.LAST) if bundle.has(layout.LAST) else {}
            codes = RequestCodes.of_parts(bundle.json(layout.CONTEXT), arrays)
            fit = described["request"]["shape"][1] == len(codes.features)
            if not fit or any(len(each) != model["users"] for each in arrays.values()):
                raise CadcError(
                    f"{bundle.path}: {layout.CONTEXT} does not fit the model; export anew."
                )
        length = int(described["history"]["shape"][1]) if "history" in described else 0
        return cls(codes, LazyProgram(bundle, name), length, "user" in described)

    def vectors(
        self, rows: NDArray[np.int64], histories: list[NDArray[Any]], codes: Codes | None
    ) -> Floats:
        """Vectors ``[n, d]`` of users' rows; those of -1 say nothing.

        Args:
            rows: of the users ``[n]``.
            histories: item rows of what each took, the latest first.
            codes: of their requests ``[n, features]``; None where the model reads none.
        """
        given = [np.maximum(rows, 0)] if self.by_user else []
        if self.history_length:
            given.append(padded(histories, self.history_length))
        if codes is not None:
            given.append(codes.astype(np.int64))
        import torch

        with torch.inference_mode():
            found: Floats = self.program(*map(torch.from_numpy, given)).numpy()
        return found


def newcomers_of(
    bundle: Bundle, model: Mapping[str, Any]
) -> tuple[Newcomers | None, int, LazyProgram | None]:
    """What folds in a history, how many items of it are read, and the program that does."""
    described = model["programs"].get("newcomer")
    if described is None:
        return None, 0, None
    program = LazyProgram(bundle, "newcomer")
    with_context = any(given["name"] == "request" for given in described["inputs"])

    def vectors(history: NDArray[np.int64], *codes: Codes) -> Floats:
        import torch

        given = [torch.from_numpy(history)]
        if with_context:  # others fold a history into the items' vectors, whenever it is asked for
            given += [torch.from_numpy(each.astype(np.int64)) for each in codes]
        with torch.inference_mode():
            found: Floats = program(*given).numpy()
        return found

    return vectors, int(described["inputs"][0]["shape"][1]), program


def padded(histories: list[NDArray[Any]], length: int) -> NDArray[np.int64]:
    """Histories, the latest item first, as ``[n, length]``, -1 after the last item of each."""
    made = np.full((len(histories), length), -1, np.int64)
    for line, history in enumerate(histories):
        made[line, : len(history[:length])] = history[:length]
    return made
