"""Numbers against how people write them."""

from __future__ import annotations

from typing import Any

import pytest

from chunkflow.report.html import number, short


@pytest.mark.parametrize(
    ("value", "fixed", "brief"),
    [
        (0, "0", "0"),
        (1234567, "1,234,567", "1,234,567"),
        (0.08, "0.08000", "0.08"),
        (12345.678, "12,346", "12,346"),
        (-1.5, "-1.500", "-1.5"),
        (3.2e-7, "3.200e-07", "3.200e-07"),
        (float("nan"), "", ""),
        (None, "", ""),
    ],
)
def test_numbers_are_written_as_people_write_them(value: Any, fixed: str, brief: str) -> None:
    assert number(value) == fixed
    assert short(value) == brief
