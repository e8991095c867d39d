"""Charts against the columns that they are made of."""

from __future__ import annotations

import re

import numpy as np
import pytest

from chunkflow.report import charts


def test_a_histogram_counts_every_value_once() -> None:
    values = np.random.default_rng(0).lognormal(0, 2, 500)
    svg = charts.distribution(values, "length, µm", what="branches")
    assert svg.count("<path") <= 40 and "length, µm" in svg
    assert charts.distribution(np.array([]), "length", what="branches") == ""
    assert charts.distribution(np.array([2.0, 2.0]), "length", what="branches").count("<path") == 1
    nearly_one = np.array([5.6, 5.6 + 1e-12])
    assert charts.distribution(nearly_one, "length", what="branches").count("<path") == 1


def points(svg: str) -> np.ndarray:
    """Corners of the line in a chart, x and y on the page."""
    (found,) = re.findall("<polyline class='line' points='([^']*)'", svg)
    return np.array([[float(v) for v in point.split(",")] for point in found.split()])


def test_a_line_goes_through_its_values_and_leaves_out_what_is_no_number() -> None:
    values = np.array([1.0, np.nan, 3.0, 2.0, np.inf])
    svg = charts.line(values, first=1, x_label="iteration", y_label="GCV", marker=4, marker_label="chosen")
    drawn = points(svg)
    step = (448 - 58) / 4
    np.testing.assert_allclose(drawn[:, 0], 58 + step * np.array([0, 2, 3]), atol=0.06)
    assert (drawn[0, 1] - drawn[2, 1]) == pytest.approx((drawn[0, 1] - drawn[1, 1]) / 2, abs=0.1)  # y runs down
    assert f"x1='{58 + 3 * step:.1f}' x2='{58 + 3 * step:.1f}' y1='8'" in svg and ">chosen<" in svg
    assert charts.line(np.array([np.nan, 2.0]), first=0, x_label="x", y_label="y") == ""


def test_a_line_over_decades_is_logarithmic_and_a_level_one_is_drawn() -> None:
    drawn = points(charts.line(np.array([1.0, 10.0, 100.0]), first=0, x_label="x", y_label="y"))
    assert drawn[0, 1] - drawn[1, 1] == pytest.approx(drawn[1, 1] - drawn[2, 1], abs=0.15)
    level = points(charts.line(np.ones(5), first=0, x_label="x", y_label="y"))
    assert len(level) == 5 and 12 < level[0, 1] < 172
