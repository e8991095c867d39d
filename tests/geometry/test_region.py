"""Regions as people write them, against numpy's slices and centres of voxels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkflow.errors import UsageError
from chunkflow.geometry.region import parse_region
from chunkflow.geometry.scale import Scale

SCALE = Scale((0.2, 0.08, 0.1), (1.0, -2.0, 0.0))
SHAPE = (60, 300, 401)


@pytest.mark.parametrize(
    ("text", "start", "stop"),
    [
        ("10:60,0:256,100:400", (10, 0, 100), (60, 256, 400)),
        (" 10 : 60 , :256, 100: ", (10, 0, 100), (60, 256, 401)),
        (":,:,:", (0, 0, 0), SHAPE),
        ("20,:,7", (20, 0, 7), (21, 300, 8)),
        ("1-2um,-2--1um,0-0.5um", (0, 0, 0), (5, 13, 5)),
        ("1:2 µm,:,.35:1e0um", (0, 0, 4), (5, 300, 10)),
    ],
)
def test_a_region_is_the_box_that_its_text_names(text: str, start: tuple[int, ...], stop: tuple[int, ...]) -> None:
    found = parse_region(text, SCALE, SHAPE)
    assert (found.start, found.stop) == (start, stop)


@given(low=st.integers(0, 595), more=st.integers(1, 40))
def test_micrometers_hold_exactly_the_voxels_whose_centres_lie_between(low: int, more: int) -> None:
    a, b = low / 20, (low + more) / 20
    centres = np.round(np.arange(401) * 0.1, 6)
    inside = np.flatnonzero((centres >= a) & (centres < b))
    text = f":,:,{a}-{b}um"
    if not len(inside):
        with pytest.raises(UsageError, match="holds no voxel"):
            parse_region(text, SCALE, SHAPE)
        return
    found = parse_region(text, SCALE, SHAPE)
    assert (found.start[2], found.stop[2]) == (inside[0], inside[-1] + 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10:60,0:256", "has 2 parts"),
        ("10:61,:,:", "reaches outside: the volume has 60 voxels along z, 1-13 um"),
        ("0-2um,:,:", "reaches outside"),
        ("7:7,:,:", "holds no voxel"),
        ("a:b,:,:", "is no range along z"),
        (":,-3:5,:", "is no range along y"),
        (":,:,1-2", "is no range along x"),
    ],
)
def test_what_is_no_region_is_refused_with_the_part_that_is_wrong(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_region(text, SCALE, SHAPE)
