"""The next level of a pyramid: every output voxel from the up to 2 x 2 x 2 voxels it covers.

    factors (1, 2, 2), an odd end:    | a b | c d | e |       the last output voxel covers the voxels that exist
                                      | f g | h i | j |

Nothing is read beyond those voxels, so a level is the same whatever the blocks, as long as they start on even voxels.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from chunkflow.backend import array_module
from chunkflow.geometry.box import Triple, triple


def coarse_shape(shape: Triple, factors: Triple) -> Triple:
    """Shape of the next level: each axis divided by its factor, rounded up."""
    return triple(tuple(-(-n // f) for n, f in zip(shape, factors, strict=True)))


def mean2(image: Any, factors: Triple) -> Any:
    """Mean of the voxels each output voxel covers (images).

    Parameters
    ----------
    image : (Z, Y, X) integer, bool or float, numpy or cupy.
    factors : 1 or 2 for each of z, y, x.

    Returns
    -------
    (ceil(Z / fz), ceil(Y / fy), ceil(X / fx)), same dtype. Integers: the exact mean, halves rounded up, no overflow in
    any integer type. Floats: summed in the order of z, y, x in float32 (float64 for float64), then divided.
    """
    rule = _float_mean if image.dtype.kind == "f" else _integer_mean
    return _reduce(image.astype(np.uint8) if image.dtype.kind == "b" else image, factors, rule).astype(image.dtype)


def mode2(labels: Any, factors: Triple) -> Any:
    """Most frequent value of the voxels each output voxel covers (labels, masks).

    0 competes like any other value, but loses every tie; among other values a tie goes to the smallest, so that thin
    objects survive where they hold half of the voxels.

    Parameters
    ----------
    labels : (Z, Y, X) bool or integer, >= 0, numpy or cupy.
    factors : 1 or 2 for each of z, y, x.

    Returns
    -------
    (ceil(Z / fz), ceil(Y / fy), ceil(X / fx)), same dtype. Exact.
    """
    unsigned = np.dtype(f"u{labels.dtype.itemsize}")
    return _reduce(labels.view(unsigned), factors, _mode).view(labels.dtype)


def _reduce(array: Any, factors: Triple, rule: Any) -> Any:
    """`rule` on the list of voxels that each output voxel covers, part by part: full cells, then odd ends."""
    out = array_module(array).empty(coarse_shape(array.shape, factors), array.dtype)
    parts = (list(_axis_parts(n, f)) for n, f in zip(array.shape, factors, strict=True))
    for part in product(*parts):
        target = tuple(placed for placed, _ in part)
        covered = [array[where] for where in product(*(sources for _, sources in part))]
        out[target] = rule(covered)
    return out


def _axis_parts(n: int, factor: int) -> Iterator[tuple[slice, list[slice]]]:
    """(output range, one strided source range for each voxel covered) of an axis; the odd end is a part of its own."""
    full = n // factor
    if full:
        yield slice(0, full), [slice(offset, full * factor, factor) for offset in range(factor)]
    if n % factor:
        yield slice(full, full + 1), [slice(n - 1, n)]


def _integer_mean(covered: list[Any]) -> Any:
    """floor(sum / n + 1/2) for n = 1, 2, 4 or 8, within the type: v = n * (v >> k) + (v & (n - 1))."""
    n = len(covered)
    k = n.bit_length() - 1
    quotient = _sum_in_order([v >> k for v in covered])
    remainder = _sum_in_order([v & (n - 1) for v in covered])
    remainder += n // 2
    remainder >>= k
    quotient += remainder
    return quotient


def _float_mean(covered: list[Any]) -> Any:
    wide = np.result_type(covered[0].dtype, np.float32)
    total = _sum_in_order([v.astype(wide) for v in covered])
    total *= 1 / len(covered)
    return total


def _sum_in_order(arrays: list[Any]) -> Any:
    """((a + b) + c) + ... in the first array, which must be a temporary one."""
    total = arrays[0]
    for array in arrays[1:]:
        total += array
    return total


def _mode(covered: list[Any]) -> Any:
    """Most frequent of n arrays; on a tie the smallest, with 0 counted as the largest.

    All pairs are compared (28 for 8 voxels): each a plain pass over contiguous memory, on a GPU too.
    """
    xp = array_module(covered[0])
    # one less wraps 0 to the largest value: then "smallest first" is the whole rule for ties
    ranks = [xp.ascontiguousarray(v) - v.dtype.type(1) for v in covered]
    counts = [xp.ones(rank.shape, np.uint8) for rank in ranks]
    for i in range(len(ranks)):
        for j in range(i + 1, len(ranks)):
            equal = ranks[i] == ranks[j]
            counts[i] += equal
            counts[j] += equal
    best, best_count = ranks[0], counts[0]
    for rank, count in zip(ranks[1:], counts[1:], strict=True):
        better = (count > best_count) | ((count == best_count) & (rank < best))
        best, best_count = xp.where(better, rank, best), xp.maximum(count, best_count)
    return best + best.dtype.type(1)
