"""Charts against the columns that they are made of."""

from __future__ import annotations

import numpy as np

from chunkflow.report import charts


def test_a_histogram_counts_every_value_once() -> None:
    values = np.random.default_rng(0).lognormal(0, 2, 500)
    svg = charts.distribution(values, "length, µm", what="branches")
    assert svg.count("<path") <= 40 and "length, µm" in svg
    assert charts.distribution(np.array([]), "length", what="branches") == ""
    assert charts.distribution(np.array([2.0, 2.0]), "length", what="branches").count("<path") == 1
    nearly_one = np.array([5.6, 5.6 + 1e-12])
    assert charts.distribution(nearly_one, "length", what="branches").count("<path") == 1
