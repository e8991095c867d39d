"""Charts against the columns that they are made of."""

from __future__ import annotations

import re

import numpy as np
import pytest

from chunkflow.report import charts


def test_a_histogram_counts_every_value_once() -> None:
    values = np.random.default_rng(0).lognormal(0, 2, 500)
    svg = charts.distribution(lambda: [values[:3], values[3:]], "length, µm", what="branches")
    assert svg.count("<path") <= 40 and "length, µm" in svg
    assert charts.distribution(lambda: [np.array([])], "length", what="branches") == ""
    assert charts.distribution(lambda: [np.array([2.0, 2.0])], "length", what="branches").count("<path") == 1
    nearly_one = np.array([5.6, 5.6 + 1e-12])
    assert charts.distribution(lambda: [nearly_one], "length", what="branches").count("<path") == 1


def points(svg: str) -> np.ndarray:
    """Corners of the line in a chart, x and y on the page."""
    (found,) = re.findall("<polyline class='line' points='([^']*)'", svg)
    return np.array([[float(v) for v in point.split(",")] for point in found.split()])


def test_a_line_goes_through_its_values_and_leaves_out_what_is_no_number() -> None:
    values = np.array([1.0, np.nan, 3.0, 2.0, np.inf])
    svg = charts.line(values, first=1, x_label="iteration", y_label="GCV", marker=4, marker_label="chosen")
    drawn = points(svg)
    step = (charts.RIGHT - charts.LEFT) / 4
    np.testing.assert_allclose(drawn[:, 0], charts.LEFT + step * np.array([0, 2, 3]), atol=0.06)
    assert (drawn[0, 1] - drawn[2, 1]) == pytest.approx((drawn[0, 1] - drawn[1, 1]) / 2, abs=0.1)  # y runs down
    assert f"x1='{charts.LEFT + 3 * step:.1f}' x2='{charts.LEFT + 3 * step:.1f}' y1='8'" in svg and ">chosen<" in svg
    assert charts.line(np.array([np.nan, 2.0]), first=0, x_label="x", y_label="y") == ""


def test_a_line_over_decades_is_logarithmic_and_a_level_one_is_drawn() -> None:
    drawn = points(charts.line(np.array([1.0, 10.0, 100.0]), first=0, x_label="x", y_label="y"))
    assert drawn[0, 1] - drawn[1, 1] == pytest.approx(drawn[1, 1] - drawn[2, 1], abs=0.15)
    level = points(charts.line(np.ones(5), first=0, x_label="x", y_label="y"))
    assert len(level) == 5 and 12 < level[0, 1] < 172


def test_a_bar_tells_what_it_stands_for_under_the_pointer() -> None:
    values = np.array([1.0, 1.0, 2.0, 5.0])
    titles = re.findall(
        "<title>(.*?)</title>", charts.distribution(lambda: [values[:3], values[3:]], "length, µm", what="branches")
    )
    assert sum(int(title.split(": ")[1].split()[0]) for title in titles) == 4
    assert titles[0].startswith("1 to ") and titles[0].endswith("2 branches")


def test_a_point_of_a_line_tells_what_it_stands_for_under_the_pointer() -> None:
    values = np.array([1.0, np.nan, 1234.56])
    svg = charts.line(values, first=5, x_label="plane (z)", y_label="gain")
    assert re.findall("<title>(.*?)</title>", svg) == ["5: 1 gain", "7: 1,235 gain"]
    across = [float(x) for x in re.findall("<circle cx='([^']*)'", svg)]
    np.testing.assert_allclose(across, points(svg)[:, 0])
    long = charts.line(np.arange(5000.0), first=0, x_label="x", y_label="y")
    assert "<title>" not in long


def test_whole_numbers_have_a_bar_each() -> None:
    svg = charts.counts_of({1: 3, 3: 2, 4: 1}, "degree", what="nodes")
    assert re.findall("<title>(.*?)</title>", svg) == ["1: 3 nodes", "3: 2 nodes", "4: 1 nodes"]
    ticks = re.findall("text-anchor='middle'>([0-9.,]+)</text>", svg)
    assert {"1", "2", "3", "4"} >= set(ticks) and ticks
    wide = charts.counts_of(dict.fromkeys(range(10**5), 1), "degree", what="nodes")
    assert wide.count("<path") <= charts.CHART_BINS and len(wide) < 40_000


def test_stacked_bars_stand_on_each_other() -> None:
    rows = [
        charts.Series(name=n, color=c, values=np.array(v))
        for n, c, v in (("a", "#000", [1.0, 0]), ("b", "#111", [2.0, 4.0]))
    ]
    svg = charts.stacked(rows, np.array([0.0, 1.0, 2.0]), x_label="time, s", y_label="blocks / s")
    bars = [tuple(map(float, bar)) for bar in re.findall(r"<path d='M\S+ ([0-9.]+)V([0-9.]+)H", svg)]
    (a_foot, a_top), (b_foot, b_top), (c_foot, c_top) = bars
    assert a_foot == c_foot == 172 and a_top == b_foot
    assert b_foot - b_top == pytest.approx(2 * (a_foot - a_top), abs=0.2)
    assert c_foot - c_top == pytest.approx(4 * (a_foot - a_top), abs=0.3)
    assert charts.stacked([], np.array([0.0, 1.0]), x_label="x", y_label="y") == ""


def test_outlines_over_each_other_share_their_axes() -> None:
    rows = [
        charts.Series(name=n, color="#000", values=np.array(v)) for n, v in (("a", [50.0, 50.0]), ("b", [0.0, 100.0]))
    ]
    svg = charts.overlaid(rows, np.array([1.0, 2.0, 3.0]), x_label="x", y_label="%", log_x=False)
    first, second = (
        [tuple(map(float, point.split(","))) for point in drawn.split()]
        for drawn in re.findall("points='([^']*)'", svg)
    )
    assert [x for x, _ in first] == [x for x, _ in second]
    assert 172 - first[2][1] == pytest.approx((172 - second[2][1]) / 2, abs=0.1) and second[0][1] == 172
    assert svg.count("stroke-dasharray") == 1
