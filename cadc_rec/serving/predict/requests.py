"""Users' vectors at the moment of a request, for models whose user tower reads its context.

In: rows of users, what they took, and codes of their requests. Out: a vector each, by the program
of the user tower: the forward of training, on the codes that training would have made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from cadc_rec.data.request_codes import Codes, RequestCodes
from cadc_rec.data.user_items import UserItems
from cadc_rec.errors import CadcError
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.predict.top_k import Floats

if TYPE_CHECKING:
    from cadc_rec.serving.bundle.bundle import Bundle


@dataclass(frozen=True)
class Requests:
    """What forms vectors of known users.

    Attributes:
        codes: makes the codes of requests.
        query: int64 users ``[n]``, for a model with a history int64 ``[n, L]``, and int64 codes
            ``[n, features]`` to vectors ``[n, d]``.
        history_length: L, 0 without a history.
    """

    codes: RequestCodes
    query: Callable[..., torch.Tensor]
    history_length: int

    @classmethod
    def of_bundle(cls, bundle: Bundle, model: Mapping[str, Any]) -> Self | None:
        """Those of a bundle; None where its model reads no context.

        Raises:
            CadcError: its parts do not fit each other.
        """
        if not bundle.has(layout.CONTEXT):
            return None
        from cadc_rec.serving.bundle.programs import load_program

        arrays = bundle.arrays(layout.LAST) if bundle.has(layout.LAST) else {}
        described = {one["name"]: one for one in model["programs"]["query"]["inputs"]}
        codes = RequestCodes.of_parts(bundle.json(layout.CONTEXT), arrays)
        fit = described["request"]["shape"][1] == len(codes.features)
        if not fit or any(len(each) != model["users"] for each in arrays.values()):
            raise CadcError(f"{bundle.path}: {layout.CONTEXT} does not fit the model; export anew.")
        length = int(described["history"]["shape"][1]) if "history" in described else 0
        return cls(codes, load_program(bundle, "query"), length)

    def vectors(self, rows: NDArray[np.int64], known: UserItems, codes: Codes) -> Floats:
        """Vectors ``[n, d]`` of users' rows; those of -1 say nothing.

        Args:
            rows: of the users ``[n]``.
            known: what all users took, oldest first.
            codes: of their requests ``[n, features]``.
        """
        users = np.maximum(rows, 0)
        given = [users]
        if self.history_length:
            histories = [known.of(user)[::-1] for user in users.tolist()]
            given.append(padded(histories, self.history_length))
        with torch.inference_mode():
            asked = (torch.from_numpy(one) for one in (*given, codes.astype(np.int64)))
            found: Floats = self.query(*asked).numpy()
        return found


def padded(histories: list[NDArray[Any]], length: int) -> NDArray[np.int64]:
    """Histories, the latest item first, as ``[n, length]``, -1 after the last item of each."""
    made = np.full((len(histories), length), -1, np.int64)
    for line, history in enumerate(histories):
        made[line, : len(history[:length])] = history[:length]
    return made
