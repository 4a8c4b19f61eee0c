"""How far float32 may put a score from its exact value: what ranking and top-k must look at again.

Both form all scores in float32 first, and in float64 those that this bound leaves undecided.
"""

from __future__ import annotations

from typing import Any


def rounding_bound(width: int, reach: Any) -> Any:
    """The most by which float32 dot products of vectors can differ from exact ones.

    ``|float32 dot - exact dot| <= (d + 2) (u |x| |y| + 2^-126)`` with ``u = 2^-24`` (Higham 2002,
    3.1), the last term where a product is too small for float32.

    Args:
        width: d, elements of a vector.
        reach: ``|x| |y|``, an upper bound on every partial sum; float64, a NumPy array
            or a tensor of any shape.

    Returns:
        The bounds, in the shape of `reach`.
    """
    return (width + 2) * (2.0**-24 * reach + 2.0**-126)
