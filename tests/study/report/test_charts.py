"""Charts: what is drawn is where and as long as its number says."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from cadc_rec.study.report.charts import (
    Axis,
    Bar,
    BarPanel,
    Curve,
    Level,
    Panel,
    Point,
    Series,
    Style,
    bars,
    plot,
)

PLACE = re.compile(r"translate\(([-\d.]+),([-\d.]+)\)")


def places(svg):
    """Where a chart's values are drawn, in pixels from the lower left, by their text."""
    root = ElementTree.fromstring(svg)
    found = [e for e in root.iter() if e.get("aria-roledescription") == "value"]
    return {
        e.get("aria-label"): tuple(map(float, PLACE.match(e.get("transform")).groups()))
        for e in found
    }


def test_a_point_is_drawn_at_its_value_on_linear_and_logarithmic_axes():
    """Pixels are linear in y, and in the logarithm of x, wherever the axes begin."""
    values = [(1.0, 2.0), (10.0, 4.0), (1000.0, 10.0)]
    points = tuple(Point(x, y, f"{x:g}") for x, y in values)
    styles = {"a": Style("#2f81f7")}
    panel = Panel("panel", "%", (Series("a", points, joined=False),))
    drawn = places(plot("chart", Axis("seconds", log=True), [panel], styles))
    (x0, y0), (x1, y1), (x2, y2) = (drawn[f"{x:g}"] for x, _ in values)
    assert (x2 - x0) / (x1 - x0) == pytest.approx(3, abs=0.01)
    assert (y0 - y2) / (y0 - y1) == pytest.approx(4, abs=0.05)
    assert y2 < y1 < y0


def test_bars_are_as_long_as_their_numbers_and_end_with_their_total():
    rows = (Bar("a", (("one", 1.0, "tip 1"), ("two", 3.0, "tip 3"), ("three", 0.0, "")), "4 s"),)
    svg = bars("chart", "seconds", [BarPanel("panel", rows)], {"one": "#123456", "two": "#654321"})
    widths = {
        e.get("aria-label"): float(re.search(r"h([\d.]+)v", e.get("d"))[1])
        for e in ElementTree.fromstring(svg).iter()
        if e.get("aria-roledescription") == "value"
    }
    assert widths["tip 3"] / widths["tip 1"] == pytest.approx(3, rel=0.01)
    assert set(widths) == {"tip 1", "tip 3"}
    assert ">4 s</text>" in svg


def test_a_level_is_as_high_as_a_point_of_its_value_and_reaches_from_side_to_side():
    styles = {"a": Style("#2f81f7"), "b": Style("#b9810f", "square", dash=(7, 4))}
    series = (Series("a", (Point(1.0, 3.0, "point"), Point(2.0, 6.0, "other"))),)
    panel = Panel("panel", "%", series, (Level("b", 3.0, "level"),))
    root = ElementTree.fromstring(plot("chart", Axis("x"), [panel], styles))
    drawn = {e.get("aria-label"): e for e in root.iter() if e.get("aria-label")}
    heights = [float(PLACE.match(drawn[n].get("transform"))[2]) for n in ("level", "point")]
    assert heights[0] == pytest.approx(heights[1])
    assert abs(float(drawn["level"].get("x2"))) == 430  # the panel's width


def test_a_curve_runs_through_its_corners_and_is_no_value():
    corners = ((1.0, 2.0), (10.0, 4.0), (1000.0, 10.0))
    points = tuple(Point(x, y, f"{x:g}") for x, y in corners)
    curve = Curve("a", tuple((x, y, y - 1, y + 1) for x, y in corners))
    panel = Panel("panel", "%", (Series("a", points, joined=False),), curves=(curve,))
    svg = plot("chart", Axis("share", log=True), [panel], {"a": Style("#2f81f7")})
    marks = [f"{x:g},{y:g}" for x, y in places(svg).values()]
    drawn = [e.get("d") for e in ElementTree.fromstring(svg).iter() if e.get("d")]
    lines = [re.findall(r"[-\d.]+,[-\d.]+", d) for d in drawn if d.startswith("M")]
    assert len(marks) == 3
    assert any(
        len(line) == 3
        and all(
            tuple(map(float, corner.split(",")))
            == pytest.approx(tuple(map(float, mark.split(","))), abs=0.01)
            for corner, mark in zip(line, marks, strict=True)
        )
        for line in lines
    )


def test_a_panel_may_have_a_lower_axis_of_its_own():
    series = (Series("a", (Point(1.0, 3.0, "point"), Point(2.0, 6.0, "other"))),)
    panels = [Panel("left", "%", series), Panel("right", "%", series, x=Axis("its own"))]
    svg = plot("chart", Axis("of all"), panels, {"a": Style("#2f81f7")})
    texts = [e.text for e in ElementTree.fromstring(svg).iter() if e.text]
    assert texts.count("of all") == texts.count("its own") == 1


def test_a_legend_of_long_names_takes_several_lines():
    """Twelve names of 30 letters: in one line, they would be three panels wide."""
    names = [f"a set with a rather long name {n}" for n in range(12)]
    series = tuple(Series(name, (Point(1.0, 2.0, name), Point(3.0, 4.0, name))) for name in names)
    styles = {name: Style("#2f81f7") for name in names}
    svg = plot("chart", Axis("x"), [Panel("panel", "%", series)] * 2, styles)
    assert float(ElementTree.fromstring(svg).get("width")) < 1100


def test_texts_are_escaped_and_all_names_stand_in_the_legend():
    evil = "<script>&\"'"
    panel = Panel(evil, evil, (Series(evil, (Point(1.0, 3.0, evil),), False, evil),))
    svg = plot(evil, Axis(evil), [panel], {evil: Style("#2f81f7")})
    assert "<script" not in svg
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.text]
    assert texts.count(evil) == 5  # title, both axes, beside the point, legend


@pytest.mark.parametrize("ends", [(35.0, 90.0), (60.0, 66.0), (1.0, 1000.0), (0.03, 0.2)])
def test_a_logarithmic_axis_has_at_least_three_numbers_in_order(ends):
    points = tuple(Point(x, 1.0, f"{x:g}") for x in ends)
    panel = Panel("panel", "%", (Series("a", points),))
    axis = Axis("seconds", log=True)
    root = ElementTree.fromstring(plot("c", axis, [panel], {"a": Style("#2f81f7")}))
    texts = [e.text for e in root.iter() if e.tag.endswith("text") and e.text]
    title = texts.index("seconds")
    numbers = [float(t.replace(",", "")) for t in texts[:title]]
    assert len(numbers) >= 3
    assert numbers == sorted(set(numbers))
