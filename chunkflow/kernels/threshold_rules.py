"""Where to put a threshold, from the histogram of a whole volume: the rules of the literature.

    counts per bin -> weights and moments below every bin, exact integers -> a criterion for every bin -> the best bin

Every rule is linear in the bins, or linear times a logarithm of them, so 65,536 bins take under a second. Foreground
is `value > threshold`: rules that choose a bin return its centre, the last value of the background, of equals the
first. Counts and moments are exact up to 10^14 voxels; criteria are float64, computed once for a volume, so blocks
change nothing.

Bins are taken as they are. Rules that look at the heights of single bins (triangle, Yen, Kapur) see noise where there
are fewer voxels than bins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import log

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import InputError
from chunkflow.kernels.threshold import Bins, Counts, check_separable

Floats = NDArray[np.float64]

DIRECT = 256
"""Bins of the histogram whose fuzzy entropy is summed without a transform."""


def otsu(counts: Counts, bins: Bins) -> float:
    """The threshold that maximises the variance between the two classes (Otsu, IEEE Trans. SMC 9, 62, 1979).

    Raises
    ------
    InputError : there is nothing to separate.
    """
    check_separable(counts, bins)
    below, moment = _below(counts)
    above = below[-1] - below
    inner = (below > 0) & (above > 0)
    mean_below = moment[inner] / below[inner]
    mean_above = (moment[-1] - moment[inner]) / above[inner]
    between = below[inner].astype(np.float64) * above[inner] * (mean_above - mean_below) ** 2
    return bins.value(float(np.flatnonzero(inner)[between.argmax()]))


def li(counts: Counts, bins: Bins) -> float:
    """Minimum cross entropy (Li & Tam, Pattern Recognition Letters 19, 771, 1998), from the mean on.

    With m0, m1 the class means above the minimum, the threshold t <- (m1 - m0) / (log m1 - log m0) until the classes no
    longer change. t moves one way only, so this ends.

    Raises
    ------
    InputError : there is nothing to separate.
    """
    check_separable(counts, bins)
    below, moment = _below(counts)
    origin = int(np.flatnonzero(counts)[0])
    threshold = int(moment[-1]) / int(below[-1]) - origin
    split = -1
    while int(threshold) != split:
        split = int(threshold)
        mean_below, mean_above = _class_means(below, moment, origin, origin + split)
        if mean_below == 0:  # the background is the minimum alone: its logarithm would be infinite
            break
        threshold = (mean_above - mean_below) / (log(mean_above) - log(mean_below))
    return bins.value(origin + threshold)


def isodata(counts: Counts, bins: Bins) -> float:
    """Half-way between the class means (Ridler & Calvard, IEEE Trans. SMC 8, 630, 1978), from the darkest bin on.

    The bin t <- floor((m0 + m1) / 2) until it stays. Both means grow with t, so t grows, and ends at the lowest bin
    that agrees with its means. Exact integers.

    Raises
    ------
    InputError : there is nothing to separate.
    """
    check_separable(counts, bins)
    below, moment = _below(counts)
    total, all_moment = int(below[-1]), int(moment[-1])
    split, before = int(np.flatnonzero(counts)[0]), -1
    while split != before:
        before = split
        n0, s0 = int(below[split]), int(moment[split])
        n1, s1 = total - n0, all_moment - s0
        split = (s0 * n1 + s1 * n0) // (2 * n0 * n1)
    return bins.value(float(split))


def yen(counts: Counts, bins: Bins) -> float:
    """Maximum correlation (Yen, Chang & Chang, IEEE Trans. Image Processing 4, 370, 1995, eq. 4).

    Maximises 2 ln(P0 P1) - ln(sum of p^2 below) - ln(sum of p^2 above), p the share of a bin, P of a class.

    Raises
    ------
    InputError : there is nothing to separate.
    """
    check_separable(counts, bins)
    at = _inner(counts)
    share = _below(counts)[0] / counts.sum()
    square = (counts / counts.sum()) ** 2
    below, above = np.cumsum(square)[at], np.cumsum(square[::-1])[::-1][at + 1]
    correlation = 2 * np.log(share[at] * (1 - share[at])) - np.log(below) - np.log(above)
    return bins.value(float(at[correlation.argmax()]))


def kapur(counts: Counts, bins: Bins) -> float:
    """Maximum entropy (Kapur, Sahoo & Wong, Computer Vision, Graphics, and Image Processing 29, 273, 1985, eq. 18).

    Maximises the sum of the entropies of the two classes. ImageJ calls it MaxEntropy.

    Raises
    ------
    InputError : there is nothing to separate.
    """
    check_separable(counts, bins)
    at = _inner(counts)
    p = counts / counts.sum()
    term = p * np.log(np.where(p > 0, p, 1))  # p ln p is 0 where p is
    share = _below(counts)[0][at] / counts.sum()
    below, above = np.cumsum(term)[at], np.cumsum(term[::-1])[::-1][at + 1]
    entropy = np.log(share * (1 - share)) - below / share - above / (1 - share)
    return bins.value(float(at[entropy.argmax()]))


def triangle(counts: Counts, bins: Bins) -> float:
    """The bin farthest below the line from the peak to the end of the longer tail.

    Zack, Rogers & Latt, J. Histochemistry and Cytochemistry 25, 741, 1977; the line ends at zero voxels, as in
    scikit-image. For one dominant peak. Exact integers up to 10^14 voxels.

    Raises
    ------
    InputError : there is nothing to separate.
    """
    check_separable(counts, bins)
    used = np.flatnonzero(counts)
    heights = counts[used[0] : used[-1] + 1]
    peak = int(heights.argmax())
    is_upper = peak < len(heights) - 1 - peak
    if is_upper:
        heights, peak = heights[::-1], len(heights) - 1 - peak
    # The peak is at or beyond the middle now, so there is a tail. Distances times the line's length:
    below_line = heights[peak] * np.arange(peak) - peak * heights[:peak]
    at = int(below_line.argmax())
    return bins.value(float(used[-1] - at if is_upper else used[0] + at))


def huang(counts: Counts, bins: Bins) -> float:
    """Least fuzziness (Huang & Wang, Pattern Recognition 28, 41, 1995, eq. 7 to 10, with Shannon's function).

    A voxel of value g belongs to its class, of mean m, by u = 1 / (1 + |g - m| / C), C the range of the values; the
    threshold minimises the sum of -u ln u - (1 - u) ln(1 - u) over all voxels. Means are rounded to the nearest bin, as
    in ImageJ.

    Raises
    ------
    InputError : there is nothing to separate.
    """
    check_separable(counts, bins)
    used = np.flatnonzero(counts)
    heights = counts[used[0] : used[-1] + 1]
    below, moment = _below(heights)
    above, moment_above = below[-1] - below[:-1], moment[-1] - moment[:-1]
    mean_below = (moment + below // 2) // below
    mean_above = (moment_above + above // 2) // above
    last = len(heights) - 1
    fuzziness = _fuzziness_below(heights[:-1].astype(np.float64), mean_below[:-1], last)
    # The classes above, seen from the other end.
    fuzziness += _fuzziness_below(heights[:0:-1].astype(np.float64), last - mean_above[::-1], last)[::-1]
    return bins.value(float(used[0] + fuzziness.argmin()))


def _fuzziness_below(heights: Floats, means: Counts, span: int) -> Floats:
    """For every t the sum over g <= t of heights[g] * S(|g - means[t]|), S the entropy of being a member.

    means : whole numbers that do not fall, 0 to `span`, the range of all values.

    Halves of a dyadic block meet in one correlation: bins of the left half with all means of the right half,

        |--- g ---|--- t ---|          sum over g of heights[g] S(|g - m|) for m from means[first t] to means[last t]

    so the whole takes n log^2 n, not n^2.
    """
    from scipy.signal import correlate  # a third of a second, which no other command should wait for

    count = len(heights)
    entropy = _membership_entropy(np.arange(span + 1) / span)
    total = np.zeros(count)
    for start in range(0, count, DIRECT):
        near = np.arange(start, min(start + DIRECT, count))
        terms = heights[near] * entropy[np.abs(near - means[near][:, None])]
        total[near] = np.tril(terms).sum(axis=1)
    half = DIRECT
    while half < count:
        for middle in range(half, count, 2 * half):
            g, t = slice(middle - half, middle), slice(middle, min(middle + half, count))
            low, high = int(means[t][0]), int(means[t][-1])
            offsets = np.abs(np.arange(middle - half - high, middle - low))
            total[t] += correlate(entropy[offsets], heights[g], "valid", "fft")[high - means[t]]
        half *= 2
    return total


def _membership_entropy(distance: Floats) -> Floats:
    """-u ln u - (1 - u) ln(1 - u) for u = 1 / (1 + d): ln(1 + d) - d ln d / (1 + d)."""
    return np.asarray(np.log1p(distance) - distance * np.log(np.where(distance > 0, distance, 1)) / (1 + distance))


def multi_otsu(counts: Counts, bins: Bins, classes: int) -> Floats:
    """The thresholds that maximise the variance between several classes.

    Liao, Chen & Chung, J. Information Science and Engineering 17, 713, 2001.

    Returns (classes - 1,) centres of the last bin of each class but the highest. An exact optimum, see `_best_splits`.

    Raises
    ------
    InputError : there are fewer different values than classes.
    """
    used, last = _best_classes(counts, bins, classes)
    return bins.centres[used[last]]


def kmeans(counts: Counts, bins: Bins, classes: int) -> Floats:
    """Half-way between the means of neighbouring clusters, of those with the least sum of squared distances.

    In one dimension that is the objective of `multi_otsu`, so both divide the voxels alike; only the value between them
    differs. No start to choose and no local optimum: k-means by Lloyd's iteration may end elsewhere.

    Returns (classes - 1,) values.

    Raises
    ------
    InputError : there are fewer different values than classes.
    """
    used, last = _best_classes(counts, bins, classes)
    below, moment = _below(counts)
    bounds = [-1, *used[last].tolist(), bins.count - 1]
    weights = np.diff([0 if b < 0 else int(below[b]) for b in bounds])
    moments = np.diff([0 if b < 0 else int(moment[b]) for b in bounds])
    means = moments / weights
    return np.array([bins.value(float(position)) for position in (means[1:] + means[:-1]) / 2])


def _best_classes(counts: Counts, bins: Bins, classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bins that are used, and for each class but the highest which of them is its last."""
    check_separable(counts, bins)
    used = np.flatnonzero(counts)
    if len(used) < classes:
        raise InputError(
            f"the voxels have {len(used)} different values, which are no {classes} classes",
            "Use fewer classes, or threshold: {method: otsu}",
        )
    below = np.concatenate([[0], np.cumsum(counts[used])])
    moment = np.concatenate([[0], np.cumsum(counts[used] * used)])
    centred = moment - int(moment[-1]) / int(below[-1]) * below
    return used, _best_splits(below, centred, classes) - 1


def _best_splits(below: Counts, moment: Floats, classes: int) -> NDArray[np.int64]:
    """The division of m values into runs that maximises the sum of (moment of a run)^2 / (its weight).

    Parameters
    ----------
    below, moment : (m + 1,) weight and moment about the common mean of the first i values.

    Returns (classes - 1,) where runs end, exclusive. With best[c][j] the best of c runs over the first j values,
    best[c][j] = max over i of best[c - 1][i] + (moment[j] - moment[i])^2 / (below[j] - below[i]). The best i does not
    fall with j (the terms satisfy the quadrangle inequality: Wu, J. Algorithms 12, 663, 1991), so that of a j lies
    between those of its neighbours on a coarser lattice: m log m instead of m^2.
    """
    count = len(below) - 1
    best = np.full(count + 1, -np.inf)
    best[1:] = moment[1:] ** 2 / below[1:]
    chosen = []
    for runs in range(2, classes + 1):
        best, choice = _one_more_run(best, below, moment, runs)
        chosen.append(choice)
    ends = [count]
    for choice in reversed(chosen):
        ends.append(int(choice[ends[-1]]))
    return np.array(ends[:0:-1])


def _one_more_run(best: Floats, below: Counts, moment: Floats, runs: int) -> tuple[Floats, NDArray[np.int64]]:
    """Best values with one run more, and where that run starts, for every end."""
    count = len(below) - 1
    found, choice = np.full(count + 1, -np.inf), np.zeros(count + 1, np.int64)
    step = 1 << (count.bit_length() - 1)
    while step:
        ends = np.arange(step, count + 1, 2 * step)
        ends = ends[ends >= runs]
        if len(ends):
            found[ends], choice[ends] = _best_starts(best, below, moment, *_bounds(choice, ends, step, runs))
        step //= 2
    return found, choice


def _bounds(
    choice: NDArray[np.int64], ends: NDArray[np.int64], step: int, runs: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Ends, and the first and last start that each may have: those of the ends a step before and behind."""
    count = len(choice) - 1
    low = np.maximum(choice[ends - step], runs - 1)
    behind = np.where(ends + step <= count, choice[np.minimum(ends + step, count)], ends - 1)
    return ends, low, np.minimum(behind, ends - 1)


def _best_starts(
    best: Floats,
    below: Counts,
    moment: Floats,
    ends: NDArray[np.int64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
) -> tuple[Floats, NDArray[np.int64]]:
    """For every end the best value with a run from some start in low..high to it, and the first such start."""
    lengths = high - low + 1
    segment = np.cumsum(lengths) - lengths
    i = np.arange(lengths.sum()) + np.repeat(low - segment, lengths)
    j = np.repeat(ends, lengths)
    values = best[i] + (moment[j] - moment[i]) ** 2 / (below[j] - below[i])
    found = np.maximum.reduceat(values, segment)
    is_best = np.flatnonzero(values == np.repeat(found, lengths))
    return found, i[is_best[np.searchsorted(is_best, segment)]]


def _below(counts: Counts) -> tuple[Counts, Counts]:
    """Voxels in every bin and those before it, and the sum of their bins' numbers."""
    return np.cumsum(counts), np.cumsum(counts * np.arange(len(counts)))


def _class_means(below: Counts, moment: Counts, origin: int, last: int) -> tuple[float, float]:
    """Mean positions, counted from `origin`, of the bins up to `last` and of those after it."""
    n0, n1 = int(below[last]), int(below[-1] - below[last])
    return int(moment[last]) / n0 - origin, int(moment[-1] - moment[last]) / n1 - origin


def _inner(counts: Counts) -> NDArray[np.int64]:
    """Bins that leave voxels on both sides."""
    used = np.flatnonzero(counts)
    return np.arange(used[0], used[-1])


RULES: Mapping[str, Callable[[Counts, Bins], float]] = {
    "otsu": otsu,
    "li": li,
    "isodata": isodata,
    "yen": yen,
    "kapur": kapur,
    "triangle": triangle,
    "huang": huang,
}
"""Rules for two classes."""

CLASS_RULES: Mapping[str, Callable[[Counts, Bins, int], Floats]] = {"multi-otsu": multi_otsu, "kmeans": kmeans}
"""Rules for several."""
