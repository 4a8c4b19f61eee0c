"""One colour and one shape for a method or an integration technique, the same in every chart.

The colours are middle tones: each contrasts by 3 to 1 or more with white and with the dark page,
so a picture needs no background. Shape and dash tell them apart without colour.
"""

from __future__ import annotations

import zlib

from cadc_rec.study.report.svg import SHAPES, Look

_METHODS = {
    "random": Look("#848c97", "square"),
    "over-sampling": Look("#a8763e", "up"),
    "under-sampling": Look("#c2568f", "down"),
    "logq": Look("#14927f", "diamond"),
    "cadc-mlp": Look("#9a6ae8", "hexagon"),
    "cadc": Look("#2f81f7", "circle"),
    "gold": Look("#b9810f", "star", dash="7 4"),
    "popularity": Look("#d9534a", "plus", dash="2 3"),
    "mf": Look("#6b9a1f", "cross", dash="10 3 2 3"),
    "als": Look("#5b87a6", "square", dash="10 3 2 3"),
    "prior": Look("#7f8a3a", "hexagon", dash="2 3"),
    "recipe": Look("#e0653a", "up"),
    "recipe-gold": Look("#b0782f", "diamond", dash="7 4"),
}
_INTEGRATIONS = {
    "hybrid": Look("#14927f", "square"),
    "init": Look("#d9534a", "up"),
    "init_frozen": _METHODS["cadc"],
    "linear": Look("#9a6ae8", "diamond"),
    "mlp": Look("#6b9a1f", "down"),
    "residual": Look("#c2568f", "hexagon"),
}


def look(kind: str, name: str) -> Look:
    """The look of a method (kind "method") or of an integration technique.

    A name of neither list gets the middle grey, and a shape that depends on the name alone.
    """
    known = _METHODS if kind == "method" else _INTEGRATIONS
    return known.get(name) or Look("#7d8590", SHAPES[zlib.crc32(name.encode()) % len(SHAPES)])


def all_looks() -> dict[str, Look]:
    """Every look that has a name."""
    return _METHODS | _INTEGRATIONS
