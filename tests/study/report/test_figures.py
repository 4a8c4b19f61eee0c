"""Figures: the front of what nothing beats, and a look for each method."""

import pytest

from cadc_rec.study.report.figures import INTEGRATION_STYLES, METHOD_STYLES, pareto_front


def test_the_pareto_front_holds_what_nothing_beats():
    points = [(10, 5.0), (20, 4.0), (30, 6.0), (30, 5.5), (40, 6.0)]
    assert pareto_front(points) == [(10, 5.0), (30, 6.0)]


STYLES = METHOD_STYLES | INTEGRATION_STYLES


def luminance(colour):
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", STYLES)
def test_every_colour_is_seen_on_white_and_on_the_dark_page(name):
    light = luminance(STYLES[name].colour)
    assert 1.05 / (light + 0.05) >= 3
    assert (light + 0.05) / (luminance("#12161b") + 0.05) >= 3


def test_no_two_methods_share_colour_or_shape():
    styles = list(METHOD_STYLES.values())[:9]
    assert len({one.colour for one in styles}) == len({one.shape for one in styles}) == 9
