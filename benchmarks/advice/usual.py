"""What is usual for curves, learned from recorded ones: `cadc_rec.study.usual.USUAL`.

In: recorded curves. Out: what is usual by kind of method, or without one set's log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from benchmarks.advice.curves import Recorded
from cadc_rec.study.law import learn
from cadc_rec.study.usual import BROAD, Around, Kind, Usual


def usual_without(curves: Sequence[Recorded], one: Recorded) -> Usual:
    """What is usual for its kind, from the curves of other sets."""
    same = [c for c in curves if (c.kind, c.split) == (one.kind, one.split)]
    others = [c.curve() for c in same if _log(c.set) != _log(one.set)]
    return learn(others, BROAD[one.kind])


def _log(name: str) -> str:
    """The log that a set is of: another core or another split of it is no other set."""
    return re.sub(r"-(by-time|new|\d+core)$", "", name)


def learned(curves: Sequence[Recorded]) -> dict[Kind, Usual]:
    """What is usual, by kind, to three digits, as it is shipped.

    Each set and method has one curve in it, that on validation where it was measured on both.
    """
    chosen = {(c.set, c.method): c for c in sorted(curves, key=lambda c: c.split == "validation")}
    found: dict[Kind, Usual] = {}
    for kind in BROAD:
        of_kind = [c.curve() for c in chosen.values() if c.kind == kind]
        usual = learn(of_kind, BROAD[kind]) if of_kind else BROAD[kind]
        normals = {k: v for k, v in vars(usual).items() if isinstance(v, Around)}
        rounded = {
            k: Around(round(v.mean, 3) + 0.0, round(v.deviation, 3)) for k, v in normals.items()
        }
        found[kind] = Usual(misfit=usual.misfit, **rounded)
    return found


def as_code(usual: Mapping[Kind, Usual]) -> str:
    """The entries of `cadc_rec.study.usual.USUAL`."""
    lines = []
    for kind, one in usual.items():
        lines.append(f'    "{kind}": Usual(')
        for name, value in vars(one).items():
            of = f"Around({value.mean}, {value.deviation})" if name != "misfit" else value
            lines.append(f"        {name}={of},")
        lines.append("    ),")
    return "\n".join(lines)
