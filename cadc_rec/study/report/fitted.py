"""The law of accuracy against share, fitted to what a study measured, for its curves.

In: a method's groups at several ratios, and the group of its base. Out: the fitted curve over
shares and its band, in percent as the report has metrics.
"""

from __future__ import annotations

import functools
from collections.abc import Container, Sequence

import numpy as np
from pydantic import ValidationError

from cadc_rec.config.experiment import Experiment
from cadc_rec.study.law import Band, Curve, Point, fit
from cadc_rec.study.report.groups import Comparisons, Group
from cadc_rec.study.usual import kind_of

POINTS = 40
Corner = tuple[float, float, float, float]
ENOUGH_RATIOS = 4
"""Measured ratios that a law is drawn through: two or three points are no curve."""
_DECIDING = {"model", "prior", "pretrain"}


def fitted_curve(
    comparisons: Comparisons,
    groups: Sequence[Group],
    metric: str = "hr@10",
    seeds: Container[int] | None = None,
) -> Band | None:
    """The law of one method on one dataset, from its least share to everything.

    Args:
        comparisons: where the base is looked for: the group without towers, on the same dataset.
        groups: of that method, at two ratios or more, each with finished cells.
        metric: HR@10; what is usual was learned for no other.
        seeds: that count; None takes all that are done.

    Returns:
        The curve and its 90% band in percent: that of the law itself, not of one more run. None
        where there are fewer than two ratios, no base, or records too old to tell it.
    """
    done = [group for group in groups if group.done]
    if len({group.ratio for group in done}) < 2:
        return None
    config = done[0].done[0].config
    if not config.keys() >= _DECIDING:
        return None
    try:
        kind, method = kind_of(Experiment.model_validate(config))
    except ValidationError:
        return None
    base = comparisons.find(done[0].study, done[0].dataset, lambda g: g.method == method)
    points = [_point(group, 1 / group.ratio, metric, seeds) for group in done]
    start = _point(base, 1.0, metric, seeds) if base else None
    if start is None or not all(points):
        return None
    curve = Curve(kind, start, tuple(point for point in points if point))
    band = _band(curve)
    return Band(band.shares, 100 * band.value, 100 * band.low, 100 * band.high)


def corners_of(band: Band, scale: float = 1.0) -> tuple[Corner, ...]:
    """A band over shares in percent, as a chart takes it; its values times `scale`."""
    columns = (100 * band.shares, *(scale * each for each in (band.value, band.low, band.high)))
    corners = np.stack(columns, axis=1).tolist()
    return tuple((x, y, low, high) for x, y, low, high in corners)


@functools.lru_cache(maxsize=256)
def _band(curve: Curve) -> Band:
    """The law of a curve; a page draws each set twice, alone and with the others."""
    least = min(point.share for point in curve.points)
    return fit(curve).band(np.geomspace(least, 1.0, POINTS), seeds=None)


def _point(group: Group, share: float, metric: str, seeds: Container[int] | None) -> Point | None:
    found, users = group.metric(metric, seeds), group.done[0].users
    if found is None or not users:
        return None
    return Point(share, max(found.mean / 100, 0.5 / users), users, found.count)
