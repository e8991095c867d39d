"""Filled polygons against a point-in-polygon test of every voxel centre, and of any box against the whole."""

from __future__ import annotations

import numpy as np
import pytest

from chunkflow.kernels.polygons import Polygons, fill

SHAPE = (4, 23, 31)


def polygons(regions: list[tuple[int, int, list[np.ndarray]]]) -> Polygons:
    """Of (id, plane, rings)."""
    rings = [np.asarray(ring, np.float64) for _, _, own in regions for ring in own]
    return Polygons(
        points=np.concatenate(rings),
        ring_start=np.cumsum([0, *map(len, rings)]),
        region_start=np.cumsum([0, *(len(own) for _, _, own in regions)]),
        region=np.array([region for region, _, _ in regions], np.uint32),
        plane=np.array([plane for _, plane, _ in regions]),
    )


def random_polygons(rng: np.random.Generator) -> Polygons:
    """Stars with holes, half of them with corners on pixel corners, some leaving the image, on one plane or on all."""
    regions = []
    for region in range(1, 7):
        centre, count = rng.uniform((0, 0), SHAPE[1:]), int(rng.integers(3, 12))
        angle = np.sort(rng.uniform(0, 2 * np.pi, count))
        star = centre + rng.uniform(2, 12, (count, 1)) * np.stack((np.sin(angle), np.cos(angle)), axis=1)
        rings = [star, centre + (star - centre) / 3]
        plane = int(rng.integers(-1, SHAPE[0]))
        regions.append((region * 10, plane, [np.round(ring) if region % 2 else ring for ring in rings]))
    return polygons(regions)


def brute_force(given: Polygons) -> np.ndarray:
    """Every voxel centre by itself: crossings of the ray towards smaller x."""
    expected = np.zeros(SHAPE, np.uint32)
    for k, region in enumerate(given.region):
        rings = range(given.region_start[k], given.region_start[k + 1])
        for y in range(SHAPE[1]):
            for x in range(SHAPE[2]):
                crossings = 0
                for ring in (given.points[given.ring_start[r] : given.ring_start[r + 1]] for r in rings):
                    for (ya, xa), (yb, xb) in zip(np.roll(ring, 1, axis=0), ring, strict=True):
                        if (ya <= y + 0.5) != (yb <= y + 0.5):
                            crossings += xa + (y + 0.5 - ya) / (yb - ya) * (xb - xa) <= x + 0.5
                if crossings % 2:
                    planes = slice(None) if given.plane[k] < 0 else given.plane[k]
                    expected[planes, y, x] = region
    return expected


@pytest.mark.parametrize("seed", range(4))
def test_voxels_whose_centre_lies_inside_are_filled(seed: int) -> None:
    given = random_polygons(np.random.default_rng(seed))
    found = fill(given, (0, 0, 0), SHAPE)
    assert found.any()
    np.testing.assert_array_equal(found, brute_force(given))


@pytest.mark.parametrize("seed", range(4))
def test_any_box_is_cut_from_the_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    given = random_polygons(rng)
    whole = fill(given, (0, 0, 0), SHAPE)
    for _ in range(50):
        ends = np.sort([rng.choice(n + 1, 2, replace=False) for n in SHAPE], axis=1)
        start, stop = tuple(ends[:, 0].tolist()), tuple(ends[:, 1].tolist())
        np.testing.assert_array_equal(fill(given, start, stop), whole[tuple(slice(a, b) for a, b in ends)])


def test_rectangles_cover_the_pixels_between_their_sides_and_share_none() -> None:
    def rectangle(y0: float, x0: float, y1: float, x1: float) -> list[np.ndarray]:
        return [np.array([(y0, x0), (y0, x1), (y1, x1), (y1, x0)])]

    found = fill(polygons([(1, 1, rectangle(3, 4, 10, 12)), (2, 1, rectangle(3, 12, 10, 20))]), (0, 0, 0), SHAPE)
    expected = np.zeros(SHAPE, np.uint32)
    expected[1, 3:10, 4:12], expected[1, 3:10, 12:20] = 1, 2
    np.testing.assert_array_equal(found, expected)


def test_triangles_that_share_an_edge_share_no_voxel_and_leave_none_out() -> None:
    corners = np.array([(1.3, 2.1), (20.7, 5.9), (15.2, 28.4), (3.1, 22.2)])
    halves = [(1, -1, [corners[[0, 1, 2]]]), (2, -1, [corners[[2, 3, 0]]])]
    one, two = (fill(polygons([half]), (0, 0, 0), SHAPE) > 0 for half in halves)
    whole = fill(polygons([(1, -1, [corners])]), (0, 0, 0), SHAPE) > 0
    assert not (one & two).any()
    np.testing.assert_array_equal(one | two, whole)


def test_later_regions_lie_over_earlier_ones() -> None:
    square = np.array([(0, 0), (0, 6), (6, 6), (6, 0)])
    found = fill(polygons([(5, -1, [square]), (3, 2, [square + 3])]), (0, 0, 0), SHAPE)
    assert found[1, 4, 4] == 5 and found[2, 4, 4] == 3 and found[2, 8, 8] == 3 and found[1, 8, 8] == 0
