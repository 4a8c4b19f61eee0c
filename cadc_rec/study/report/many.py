"""What a table of many comparisons says together: Holm's correction, and the power of its users.

In: comparisons by name. Out: lines that stand under the table.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from cadc_rec.evaluation.statistics import LEVEL, POWER, RESAMPLES, Comparison, holm

_SHARE = 0.02  # the difference that users are counted for


def corrected(compared: Sequence[tuple[str, Comparison]]) -> tuple[str, ...]:
    """How many verdicts stand after Holm's correction, and which do not; empty below two.

    Args:
        compared: what is compared, in words, and how.
    """
    if len(compared) < 2:
        return ()
    chances = holm([one.p for _, one in compared])
    told = [one.verdict != "cannot tell" for _, one in compared]
    lost = [
        name
        for (name, _), chance, was in zip(compared, chances, told, strict=True)
        if was and chance > 1 - LEVEL
    ]
    said = (
        f"Many comparisons: of {len(compared)} in this table, {sum(told)} say better or worse by "
        f"their own interval, and {sum(told) - len(lost)} after Holm's correction for their number "
        f"({1 - LEVEL:.0%} for all together)."
    )
    if len(compared) * 2 / (RESAMPLES + 1) > 1 - LEVEL:  # the least p that there can be
        said += (
            f" With {RESAMPLES:,} resamples no p is small enough for as many comparisons, however "
            "clear the difference is."
        )
    return (f"{said} Not after it: {'; '.join(lost)}." if lost else said,)


def power(
    dataset: str, against: str, compared: Mapping[str, Sequence[Comparison]]
) -> tuple[str, ...]:
    """How many users of a dataset would tell a small difference; empty without a comparison.

    Args:
        dataset: its title.
        against: what is compared with.
        compared: by metric, the methods with it.
    """
    parts = []
    # Two runs that rank every user alike, as of one method by two names, would take no user at all.
    telling = {
        metric: [one for one in ones if one.reference and one.deviation]
        for metric, ones in compared.items()
    }
    for metric, ones in telling.items():
        needed = sorted(one.users_to_tell(_SHARE) for one in ones)
        if not needed:
            continue
        told = statistics.median(one.told_share() for one in ones)
        ends = f" ({_rounded(needed[0])} to {_rounded(needed[-1])})" if len(needed) > 1 else ""
        parts.append(
            f"of {metric.upper()} {_rounded(statistics.median(needed))} users{ends}, where the "
            f"{ones[0].users:,} tested ones tell {100 * told:.1f}%"
        )
    if not parts:
        return ()
    count = max(map(len, telling.values()))
    over = f"median and range over {count} comparisons" if count > 1 else "by the comparison"
    return (
        f"{dataset}: to tell a difference of {_SHARE:.0%} with {POWER:.0%} power takes "
        f"{'; '.join(parts)} ({over} with {against}).",
    )


def _rounded(users: float) -> str:
    """To two digits: it is an estimate."""
    return f"{float(f'{math.ceil(users):.2g}'):,.0f}"
