"""Channels per object: equal to numpy on whole objects, and the same bits from any blocks."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise, product

import numpy as np
import pytest

from chunkflow.kernels.colocalization import ChannelSums, channel_columns, channel_sums, merge_channel_sums
from chunkflow.kernels.limbs import integers, intensity_power
from chunkflow.kernels.measure import object_sums

SHAPE = (9, 13, 11)
DTYPES = [bool, np.uint8, np.int16, np.int64, np.uint64, np.float16, np.float32, np.float64]


def sample(rng: np.random.Generator, dtype: type, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    if dtype is bool:
        return rng.random(shape) < 0.5
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3, shape)).astype(dtype)


def powers_of(*images: np.ndarray) -> tuple[int, int]:
    p, q = (intensity_power(float(np.abs(image.astype(np.float64)).max()), image.dtype) for image in images)
    return p, q


def correlated(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, one of them a voxel, and two images that share structure."""
    labels = rng.choice(np.array([0, 3, 8, 2**40], np.uint64), SHAPE)
    labels[0, 0, 0] = 5
    shared = rng.gamma(2.0, 50.0, SHAPE)
    first = (shared + rng.gamma(1.0, 20.0, SHAPE)).astype(np.float32)
    second = np.maximum(0, shared + rng.normal(-90, 30, SHAPE)).astype(np.uint16)
    return labels, first, second


def columns_of(
    labels: np.ndarray, measured: np.ndarray | None, channel: np.ndarray, backgrounds: tuple[float, float] = (0.0, 0.0)
) -> dict[str, np.ndarray]:
    p, q = powers_of(channel if measured is None else measured, channel)
    sums = channel_sums(labels, channel, measured, powers=(p, q), backgrounds=backgrounds)
    totals = object_sums(labels, (0, 0, 0), measured, scale_power=p)
    return channel_columns(sums, totals, name="dapi", power=q)


@pytest.mark.parametrize("backgrounds", [(0.0, 0.0), (110.5, 40.0), (0.0, 1e9)])
def test_columns_are_those_of_numpy(backgrounds: tuple[float, float]) -> None:
    labels, first, second = correlated(np.random.default_rng(1))
    found = columns_of(labels, first, second, backgrounds)
    for row, label in enumerate(np.unique(labels[labels > 0])):
        a, b = first[labels == label].astype(np.float64), second[labels == label].astype(np.float64)
        assert found["intensity_dapi_mean"][row] == pytest.approx(b.mean(), rel=1e-14)
        assert found["intensity_dapi_sd"][row] == pytest.approx(b.std(), rel=1e-9, abs=1e-12)
        assert (found["intensity_dapi_min"][row], found["intensity_dapi_max"][row]) == (b.min(), b.max())
        m1 = a[b > backgrounds[1]].sum() / a.sum()
        m2 = b[a > backgrounds[0]].sum() / b.sum() if b.sum() else np.nan
        assert found["manders_m1_dapi"][row] == pytest.approx(m1, rel=1e-12)
        assert found["manders_m2_dapi"][row] == pytest.approx(m2, rel=1e-12, nan_ok=True)
        if len(a) > 1:
            assert found["pearson_dapi"][row] == pytest.approx(np.corrcoef(a, b)[0, 1], rel=1e-9)
    assert np.isnan(found["pearson_dapi"][1])  # a single voxel


def test_an_image_goes_with_itself_and_against_its_negative() -> None:
    labels, first, _ = correlated(np.random.default_rng(2))
    assert columns_of(labels, first, first)["pearson_dapi"][[0, 2, 3]].tolist() == [1, 1, 1]
    assert columns_of(labels, first, -first)["pearson_dapi"][[0, 2, 3]].tolist() == [-1, -1, -1]
    assert columns_of(labels, first, first)["manders_m1_dapi"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("value", [0.0, 0.1, 7.0])
def test_a_constant_channel_has_no_correlation(value: float) -> None:
    labels, first, _ = correlated(np.random.default_rng(3))
    found = columns_of(labels, first, np.full(SHAPE, value, np.float32))
    assert np.isnan(found["pearson_dapi"]).all()
    assert np.isnan(found["manders_m2_dapi"]).all() == (value == 0)
    assert found["manders_m1_dapi"].tolist() == [float(value > 0)] * 4
    assert not found["intensity_dapi_sd"].any()


def test_without_a_measured_intensity_only_the_channel_is_told_of() -> None:
    labels, _, second = correlated(np.random.default_rng(4))
    assert list(columns_of(labels, None, second)) == [f"intensity_dapi_{name}" for name in ("mean", "sd", "min", "max")]


@pytest.mark.parametrize(("first", "second"), [*zip(DTYPES, DTYPES, strict=True), (np.uint64, np.int64), (bool, float)])
def test_any_blocks_in_any_order_give_the_same_bits_as_the_whole(first: type, second: type) -> None:
    rng = np.random.default_rng(5)
    labels = rng.choice(np.array([0, 1, 7, 2**33], np.uint64), SHAPE)
    measured, channel = sample(rng, first), sample(rng, second)
    how = {"powers": powers_of(measured, channel), "backgrounds": (0.5, 3.0)}
    whole = channel_sums(labels, channel, measured, **how)
    for _ in range(4):
        cuts = [[0, *sorted(rng.choice(np.arange(1, n), 3, replace=False).tolist()), n] for n in SHAPE]
        boxes = list(product(*([slice(a, b) for a, b in pairwise(axis)] for axis in cuts)))
        rng.shuffle(boxes)
        parts = [channel_sums(labels[box], channel[box], measured[box], **how) for box in map(tuple, boxes)]
        middle = int(rng.integers(1, len(parts)))
        merged = merge_channel_sums([merge_channel_sums(parts[middle:]), merge_channel_sums(parts[:middle])])
        for field in fields(ChannelSums):
            assert getattr(merged, field.name).tobytes() == getattr(whole, field.name).tobytes(), field.name


@pytest.mark.parametrize(("first", "second"), [(np.int64, np.uint64), (np.uint64, np.uint64), (np.int64, np.int64)])
def test_products_of_the_largest_integers_are_exact(first: type, second: type) -> None:
    rng = np.random.default_rng(6)
    labels = np.ones((3, 4, 5), np.uint8)
    measured, channel = sample(rng, first, labels.shape), sample(rng, second, labels.shape)
    measured[0, 0, 0], channel[0, 0, 0] = np.iinfo(first).min, np.iinfo(second).max
    sums = channel_sums(labels, channel, measured, powers=(0, 0), backgrounds=(0.0, 0.0))
    p, q = ([int(v) for v in image.ravel()] for image in (measured, channel))
    assert integers(sums.products)[0] == sum(a * b for a, b in zip(p, q, strict=True))
    assert integers(sums.measured_inside)[0] == sum(a for a, b in zip(p, q, strict=True) if b > 0)
    assert integers(sums.channel_inside)[0] == sum(b for a, b in zip(p, q, strict=True) if a > 0)
