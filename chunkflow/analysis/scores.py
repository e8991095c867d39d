"""How well a prediction agrees with the truth: voxels, objects, and images.

    voxels    Dice, IoU                          counts of hits and misses add up over boxes, so do these scores
    objects   adapted Rand error, variation      from one table of overlaps: how many voxels each object shares with
              of information, average precision  each object of the other side
    images    mean squared error, PSNR,          sums add up
              correlation

All are exact on the arrays they are given, which are held in memory with an int64 copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, log2, log10, nan, sqrt
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chunkflow.errors import UsageError

IOU_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@dataclass(frozen=True, slots=True)
class Hits:
    """Voxels counted: found and true, found alone, true alone. Add those of several boxes with `+`."""

    both: int = 0
    found_only: int = 0
    true_only: int = 0

    @classmethod
    def of(cls, found: NDArray[np.bool_], true: NDArray[np.bool_], known: NDArray[np.bool_] | None = None) -> Self:
        """Of masks of one shape; only where `known`."""
        if known is not None:
            found, true = found & known, true & known
        both = int(np.count_nonzero(found & true))
        return cls(both, int(np.count_nonzero(found)) - both, int(np.count_nonzero(true)) - both)

    def __add__(self, other: Hits) -> Hits:
        return Hits(self.both + other.both, self.found_only + other.found_only, self.true_only + other.true_only)

    @property
    def dice(self) -> float:
        """2 |A and B| / (|A| + |B|); 1 where both are empty."""
        total = 2 * self.both + self.found_only + self.true_only
        return 2 * self.both / total if total else 1.0

    @property
    def iou(self) -> float:
        """|A and B| / |A or B|; 1 where both are empty."""
        total = self.both + self.found_only + self.true_only
        return self.both / total if total else 1.0


@dataclass(frozen=True, slots=True)
class Errors:
    """Sums over the voxels of a predicted image and a true one. Add those of several boxes with `+`."""

    count: int = 0
    squares: float = 0.0
    """Of the differences."""
    found: float = 0.0
    true: float = 0.0
    found_squares: float = 0.0
    true_squares: float = 0.0
    products: float = 0.0
    low: float = inf
    high: float = -inf
    """Of the true image."""

    @classmethod
    def of(cls, found: NDArray[Any], true: NDArray[Any], known: NDArray[np.bool_] | None = None) -> Self:
        """Of images of one shape; only where `known`."""
        a, b = (values if known is None else values[known] for values in (found, true))
        a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        if not a.size:
            return cls()
        return cls(
            count=a.size,
            squares=float(((a - b) ** 2).sum()),
            found=float(a.sum()),
            true=float(b.sum()),
            found_squares=float((a * a).sum()),
            true_squares=float((b * b).sum()),
            products=float((a * b).sum()),
            low=float(b.min()),
            high=float(b.max()),
        )

    def __add__(self, other: Errors) -> Errors:
        names = ("count", "squares", "found", "true", "found_squares", "true_squares", "products")
        sums: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in names}
        return Errors(**sums, low=min(self.low, other.low), high=max(self.high, other.high))

    @property
    def mse(self) -> float:
        """Mean squared error."""
        return self.squares / self.count if self.count else nan

    @property
    def psnr(self) -> float:
        """10 log10(range^2 / mse) in dB, the range being that of the true image."""
        if not self.count:
            return nan
        span = self.high - self.low
        return inf if self.squares == 0 else 10 * log10(span**2 / self.mse) if span > 0 else -inf

    @property
    def correlation(self) -> float:
        """Pearson's; not a number where an image has one value only."""
        if not self.count:
            return nan
        n = self.count
        a = self.found_squares - self.found**2 / n
        b = self.true_squares - self.true**2 / n
        return (self.products - self.found * self.true / n) / sqrt(a * b) if a > 0 and b > 0 else nan


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """Which objects share how many voxels.

    true, found : (N,) labels, 0 being background, each pair once
    voxels : (N,) that they share
    """

    true: NDArray[np.int64]
    found: NDArray[np.int64]
    voxels: NDArray[np.int64]

    @classmethod
    def of(cls, true: NDArray[Any], found: NDArray[Any], known: NDArray[np.bool_] | None = None) -> Self:
        """Of labels of one shape; only where `known`.

        Raises
        ------
        UsageError : the shapes differ.
        """
        if true.shape != found.shape:
            raise UsageError(f"labels of shapes {true.shape} and {found.shape} are compared", "Give one shape")
        a, b = (labels.ravel() if known is None else labels[known] for labels in (true, found))
        names_a, a = np.unique(a, return_inverse=True)
        names_b, b = np.unique(b, return_inverse=True)
        pairs, counts = np.unique(a.astype(np.int64) * max(1, len(names_b)) + b, return_counts=True)
        which = np.divmod(pairs, max(1, len(names_b)))
        return cls(names_a[which[0]].astype(np.int64), names_b[which[1]].astype(np.int64), counts.astype(np.int64))

    def sums(self, side: NDArray[np.int64], voxels: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """(N,) for every pair, all voxels of its object on one side."""
        voxels = self.voxels if voxels is None else voxels
        _, index = np.unique(side, return_inverse=True)
        return np.asarray(np.bincount(index, voxels).astype(np.int64)[index])

    def adapted_rand(self) -> tuple[float, float, float]:
        """Adapted Rand error, precision and recall (Arganda-Carreras et al. 2015, doi:10.3389/fnana.2015.00142).

        1 - 2 P R / (P + R) over pairs of voxels: P is the share of pairs that are together in the prediction that are
        so in truth, R the other way round. True background is left out, found background counts as an object.
        """
        kept = self.true != 0
        true, found, n = self.true[kept], self.found[kept], self.voxels[kept].astype(np.float64)
        total = n.sum()
        if not total:
            return nan, nan, nan
        together = float((n * n).sum() - total)
        sums = [float((_grouped(side, n) ** 2).sum() - total) for side in (found, true)]
        precision, recall = (together / s if s > 0 else 1.0 for s in sums)
        mean = precision + recall
        return 1 - (2 * precision * recall / mean if mean else 0.0), precision, recall

    def variation_of_information(self) -> tuple[float, float]:
        """H(found | true), of splits, and H(true | found), of merges, in bits (Meila 2007); their sum is the distance.

        True background is left out, as for the adapted Rand error.
        """
        kept = self.true != 0
        true, found, n = self.true[kept], self.found[kept], self.voxels[kept].astype(np.float64)
        total = n.sum()
        if not total:
            return nan, nan
        joint = _entropy(n, total)
        return joint - _entropy(_grouped(true, n), total), joint - _entropy(_grouped(found, n), total)

    def matches(self) -> pd.DataFrame:
        """Objects that share voxels: true_id, found_id, iou; best first, ties by ids."""
        rows = (self.true != 0) & (self.found != 0)
        union = self.sums(self.true) + self.sums(self.found) - self.voxels
        table = pd.DataFrame(
            {"true_id": self.true[rows], "found_id": self.found[rows], "iou": (self.voxels / union)[rows]}
        )
        return table.sort_values(["iou", "true_id", "found_id"], ascending=[False, True, True], ignore_index=True)

    def objects(self) -> tuple[int, int]:
        """How many true objects there are, and how many found ones."""
        return len(np.unique(self.true[self.true != 0])), len(np.unique(self.found[self.found != 0]))


@dataclass(frozen=True, slots=True)
class Detections:
    """Objects counted at one IoU: true ones that were found, found ones that are none, true ones missed."""

    hits: int = 0
    false: int = 0
    missed: int = 0

    def __add__(self, other: Detections) -> Detections:
        return Detections(self.hits + other.hits, self.false + other.false, self.missed + other.missed)

    @property
    def average_precision(self) -> float:
        """TP / (TP + FP + FN); 1 where there is nothing and nothing was found.

        What the 2018 Data Science Bowl and StarDist (Schmidt et al. 2018, arXiv:1806.03535) call average precision.
        It is not the area under the precision-recall curve of COCO, which needs a confidence for every object.
        """
        total = self.hits + self.false + self.missed
        return self.hits / total if total else 1.0


def detections(overlaps: Overlaps, threshold: float) -> Detections:
    """Match true and found objects one to one where their IoU is at least `threshold`.

    From 0.5 on an object has at most one partner, or two halves of exactly 0.5, so taking the best first matches as
    many as can be.

    Raises
    ------
    UsageError : the threshold is below 0.5, where the best matching would have to be searched for.
    """
    if not 0.5 <= threshold <= 1:
        raise UsageError(f"IoU threshold {threshold} is not between 0.5 and 1", "Use 0.5 or more")
    table = overlaps.matches()
    table = table[table["iou"] >= threshold]
    taken_true: set[int] = set()
    taken_found: set[int] = set()
    for true, found in zip(table["true_id"], table["found_id"], strict=True):
        if true not in taken_true and found not in taken_found:
            taken_true.add(true)
            taken_found.add(found)
    n_true, n_found = overlaps.objects()
    hits = len(taken_true)
    return Detections(hits, n_found - hits, n_true - hits)


def instance_scores(boxes: Iterable[Overlaps], thresholds: Sequence[float] = (0.5, 0.75)) -> dict[str, float]:
    """Scores of objects over several boxes: adapted_rand and voi_split, voi_merge as means weighted by true voxels,
    average_precision_NN at IoU 0.NN from counts of all objects, and average_precision, its mean over 0.5 to 0.95.
    """
    listed = list(boxes)
    weights = np.array([int(o.voxels[o.true != 0].sum()) for o in listed], np.float64)
    rows = np.array([(o.adapted_rand()[0], *o.variation_of_information()) for o in listed]).reshape(-1, 3)
    used = weights > 0
    means = (rows[used] * weights[used, None]).sum(0) / weights[used].sum() if used.any() else np.full(3, nan)
    scores = dict(zip(("adapted_rand", "voi_split", "voi_merge"), map(float, means), strict=True))
    at = {t: sum((detections(o, t) for o in listed), Detections()).average_precision for t in IOU_THRESHOLDS}
    for threshold in thresholds:
        value = at.get(threshold)
        if value is None:
            value = sum((detections(o, threshold) for o in listed), Detections()).average_precision
        scores[f"average_precision_{round(100 * threshold)}"] = value
    scores["average_precision"] = float(np.mean(list(at.values())))
    return scores


def _grouped(side: NDArray[np.int64], voxels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Voxels of each object on one side."""
    _, index = np.unique(side, return_inverse=True)
    return np.asarray(np.bincount(index, voxels))


def _entropy(voxels: NDArray[np.float64], total: float) -> float:
    """In bits."""
    return float(-sum(n / total * log2(n / total) for n in voxels.tolist() if n > 0))
