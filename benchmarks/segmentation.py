"""Mitochondria by thresholds, vesselness, a random forest and the network that comes with chunkflow.

Synthetic stacks whose networks differ in brightness by a factor of five, never seen by anything that was trained, and
three real stacks of budding yeast. Every method is a pipeline as a user would write it. What is left over after objects
under 500 voxels (0.088 um^3) are dropped is compared with the label, the true outline grown by one voxel of 0.056 um,
and its length after thinning with that of the label, or with MitoGraph's.

    Otsu, Li         one threshold per volume, after a Gaussian of one voxel
    best global      the same with the threshold that is best for each volume, by Dice, which only a known truth allows
    local            a window's mean and deviation (Niblack), above a floor; adaptive mean
    vesselness       Sato's filter, then Otsu or Li
    random forest    50 trees on the features of `pixels`, of the stacks that the network learnt from
    network          `predict: {path: mitochondria}`; other seeds where `examples/train_mitochondria.py` left them

The first table has the networks' Dice with small objects, as that of the recipe is: labels have small objects too.
Local thresholds and vesselness have parameters: those best on two of the stacks to learn from are taken. The network
wants deconvolved stacks, so everything else is told for these too: learnt, tuned and applied on stacks that are
deconvolved as the network's were. A last table is of the yeast after the deconvolution of `examples/mitochondria.yaml`.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tifffile
from common import Report, Row, Table, options
from numpy.typing import NDArray
from scipy import ndimage

import chunkflow as cf
from chunkflow.run.train_pixels import Options as ForestOptions
from chunkflow.run.train_pixels import train_pixels
from chunkflow.stages.vesselness import Vesselness
from chunkflow.synth.crowds import VOXEL_UM
from chunkflow.synth.mitochondria import HARDER, ORDINARY, Ranges, Stack, mitochondria_stack
from chunkflow.testing.memory import run_in_memory

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
TRAINED = Path(os.environ.get("CHUNKFLOW_TRAINED", ROOT / "mitochondria-training"))
"""Where the training example left networks of several seeds."""
STACKS, QUICK_STACKS = 8, 1
TUNING = 2
FOREST_STACKS, QUICK_FOREST_STACKS = 80, 4
TREES = 50
FOREST_VOXELS = 50_000
"""Of each class."""
SEEN = (32, 64, 64)
"""Middle of a stack whose voxels the forest may learn from: its features there see no other stack."""
RECIPE_DICE = {"ordinary": 0.916, "harder": 0.869}
"""Of the recipe that the shipped network is to better."""
GOAL_DICE = {"ordinary": 0.92, "harder": 0.90}
GOAL_LENGTH = 0.12

Mask = NDArray[np.bool_]
Image = NDArray[Any]
TripleUm = tuple[float, float, float]


def example() -> ModuleType:
    """`examples/train_mitochondria.py`: what is shared with it is measured alike."""
    spec = importlib.util.spec_from_file_location("training", ROOT / "examples" / "train_mitochondria.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TRAINING = example()
CUBE, WHOLE, SMALLEST = TRAINING.CUBE, TRAINING.WHOLE, TRAINING.SMALLEST_VOX
SMOOTH = VOXEL_UM


@dataclass(frozen=True, slots=True)
class Seen:
    """A volume: voxels as they were recorded or restored, their size, and the true label where it is known."""

    image: Image
    voxel_um: TripleUm
    psf: cf.Psf
    label: Mask | None
    length_um: float

    def restored(self, deconvolve: cf.Deconvolve | None = None) -> Seen:
        """Deconvolved, on cubic voxels; by default as what the network learnt from."""
        stages: list[Any] = TRAINING.restoration(self.psf) if deconvolve is None else [deconvolve]
        stages += [] if self.voxel_um == CUBE else [cf.Resample(voxel_um="isotropic")]
        left = run_in_memory(stages, self.image, block=WHOLE, voxel_um=self.voxel_um, save=("image",))
        return replace(self, image=left.arrays["image"], voxel_um=CUBE)


Segment = Callable[[Seen], Mask]
Figures = list[float | None]


def pipeline(stages: Sequence[Any], seen: Seen, smallest: int = SMALLEST) -> Mask:
    """What the stages and dropping small objects leave."""
    before = [] if seen.voxel_um == CUBE else [cf.Resample(voxel_um="isotropic")]
    left = run_in_memory(
        [*before, *stages, cf.Label(min_voxels=smallest)],
        seen.image,
        block=WHOLE,
        voxel_um=seen.voxel_um,
        save=("labels",),
    )
    return np.asarray(left.arrays["labels"] > 0)


def best_global(seen: Seen) -> Mask:
    """The fixed threshold that fits this volume best."""
    image = ndimage.gaussian_filter(seen.image.astype(np.float32), 1.0)
    values = np.percentile(image, np.linspace(80, 99.8, 34))
    value = max(values, key=lambda v: TRAINING.dice(image > v, seen.label))
    return _without_small(image > value)


def _without_small(mask: Mask) -> Mask:
    labels = run_in_memory([cf.Label(min_voxels=SMALLEST)], mask.astype(np.uint8), kind="mask", block=WHOLE)
    return np.asarray(labels.arrays["labels"] > 0)


def local(method: str, window_um: float, k: float | None, floor: float) -> Segment:
    """A local threshold, no lower than so far from the median to the 99.9th percentile of the volume."""

    def segment(seen: Seen) -> Mask:
        low, high = np.percentile(seen.image, [50, 99.9])
        given = {} if k is None else {"k": k}
        threshold = cf.Threshold(
            method=method,  # type: ignore[arg-type]
            window_um=window_um,
            smooth_um=SMOOTH,
            floor=float(low + floor * (high - low)),
            **given,
        )
        return pipeline([threshold], seen)

    return segment


def vesselness(rule: str, radii_um: tuple[float, ...]) -> Segment:
    """Sato's filter and a threshold of its whole."""
    stages = [Vesselness(radii_um=radii_um), cf.Threshold(method=rule)]  # type: ignore[arg-type]
    return lambda seen: pipeline(stages, seen)


def fixed_rule(rule: str) -> Segment:
    """One threshold of the volume."""
    return lambda seen: pipeline([cf.Threshold(method=rule, smooth_um=SMOOTH)], seen)  # type: ignore[arg-type]


def tuned(candidates: Mapping[str, Segment], stacks: Sequence[Seen], report: Report, what: str) -> Segment:
    """The candidate with the best mean Dice on the stacks to tune on."""
    scores = {
        name: float(np.mean([TRAINING.dice(segment(s), s.label) for s in stacks]))
        for name, segment in candidates.items()
    }
    best = max(scores, key=scores.__getitem__)
    report.notes.append(
        f"{what}: {best} of "
        + ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
        + " on stacks to tune on"
    )
    return candidates[best]


def trained_forest(folder: Path, count: int, *, is_restored: bool) -> Path:
    """A forest that learnt from the middle of each of the stacks that the network learnt from, deconvolved or not.

    The stacks, each scaled by its own percentiles as `pixels` scales a volume, lie one behind the other along z.
    """
    images, marks = [], []
    for number in range(count):
        stack = TRAINING.learnt_stack(number)
        image = _seen(stack).restored().image if is_restored else stack.image
        low, high = np.percentile(image, [1, 99])
        scaled = (image - low) / (high - low)
        mark = np.zeros(scaled.shape, np.uint8)
        middle = tuple(slice((n - s) // 2, (n + s) // 2) for n, s in zip(scaled.shape, SEEN, strict=True))
        mark[middle] = 1 + stack.outline(TRAINING.GROWN_VOX)[middle]
        images.append(scaled.astype(np.float32))
        marks.append(mark)
    path = folder / f"forest-{is_restored}.ome.zarr"
    TRAINING.write_stack(path, np.concatenate(images), np.concatenate(marks))
    forest = path.with_suffix(".npz")
    given = ForestOptions(per_class=FOREST_VOXELS, trees=TREES, names=("background", "mitochondria"))
    train_pixels(path, path / "labels" / "mitochondria", forest, options=given)
    return forest


def networks() -> dict[str, Path]:
    """The shipped network, and those of other seeds that lie in the folder of the training example."""
    found = {"network, shipped (seed 0)": Path("mitochondria")}
    found |= {
        f"network, {path.name.replace('-', ' ')}": path
        for path in sorted(TRAINED.glob("seed-*"))
        if path.name != "seed-0" and (path / "model.yaml").is_file()
    }
    return found


def predicted(path: Path, seen: Seen, smallest: int = SMALLEST) -> Mask:
    """What a network finds, applied as its own file says."""
    return pipeline([cf.Predict(path=str(path))], seen, smallest)


def held_out(ranges: Ranges, count: int) -> list[Seen]:
    """Stacks that nothing was trained or tuned on."""
    stacks = [mitochondria_stack(TRAINING.HELD_OUT_SEED + number, ranges) for number in range(count)]
    return [_seen(stack) for stack in stacks]


def _seen(stack: Stack) -> Seen:
    psf, label = cf.Psf(fwhm_um=stack.fwhm_um), stack.outline(TRAINING.GROWN_VOX)
    return Seen(stack.image, CUBE, psf, label, TRAINING.true_length_um(stack))


def yeast(report: Report, *, quick: bool) -> dict[str, Seen]:
    """The real stacks that are there."""
    found = {}
    for name, published in TRAINING.YEAST_UM.items():
        path = DATA / f"{name}.tif"
        if path.is_file():
            image = tifffile.imread(path)
            found[name] = Seen(image, TRAINING.YEAST_VOXEL_UM, TRAINING.YEAST_PSF, None, published)
    if len(found) < len(TRAINING.YEAST_UM):
        report.notes.append("yeast stacks are left out: they are missing from ../shared/data")
    return dict(list(found.items())[: 1 if quick else None])


def length_ratio(mask: Mask, seen: Seen) -> float:
    """Length over the true one."""
    return float(TRAINING.length_um(mask.astype(np.float32), 0.5) / seen.length_um) if mask.any() else 0.0


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    protocol = "each method once on every volume, in memory; figures are mean Dice and ratios of lengths"
    report = Report("segmentation", "Mitochondria, method by method", given, ["torch", "scikit-learn"], protocol)
    count = QUICK_STACKS if given.quick else STACKS
    scenes = {"ordinary": held_out(ORDINARY, count), "harder": held_out(HARDER, count)}
    real = yeast(report, quick=given.quick)
    tuning = [_seen(TRAINING.learnt_stack(number)) for number in range(1 if given.quick else TUNING)]
    columns = ["ordinary", "harder", "length o.", "length h.", *(name[-2:] for name in real)]
    for is_restored in (False, True):
        if is_restored:
            scenes = {name: [seen.restored() for seen in stacks] for name, stacks in scenes.items()}
            tuning = [seen.restored() for seen in tuning]
        yeasts = [seen.restored() if is_restored else seen for seen in real.values()]
        kind = "deconvolved" if is_restored else "as recorded"
        thresholds = _thresholds(report, tuning, kind, quick=given.quick)
        rows = _rows(thresholds, scenes, yeasts, is_restored=is_restored, quick=given.quick)
        title = (
            f"{kind}: mean Dice on synthetic stacks; length over the label's there (geometric mean); over MitoGraph's"
            " on yeast"
        )
        report.tables.append(Table(title=title, columns=columns, rows=rows, digits=3))
    if real:  # by the thresholds that were tuned on deconvolved stacks
        deconvolve = cf.Pipeline.from_yaml(ROOT / "examples" / "mitochondria.yaml").stages[0]
        assert isinstance(deconvolve, cf.Deconvolve)
        after = _measured(thresholds, {}, [seen.restored(deconvolve) for seen in real.values()])
        title = "length over MitoGraph's after the deconvolution of examples/mitochondria.yaml"
        report.tables.append(Table(title=title, columns=columns[4:], rows=after, digits=3))
    whole = {name: _mean_dice(partial(predicted, path, smallest=1), scenes) for name, path in networks().items()}
    _add_rows(report, rows, whole, len(real))
    report.notes += [
        f"{count} stacks of 96 x 128 x 128 voxels a set, networks differ in brightness by 5",
        f"ordinary: {_ranges(ORDINARY)}",
        f"harder: {_ranges(HARDER)}; the rest alike, see chunkflow/synth/mitochondria.py",
    ]
    report.finish()


def _rows(
    thresholds: Mapping[str, Segment],
    scenes: Mapping[str, Sequence[Seen]],
    yeasts: Sequence[Seen],
    *,
    is_restored: bool,
    quick: bool,
) -> dict[str, Figures]:
    """Every method on stacks as recorded, or on deconvolved ones, of which alone a network knows."""
    rows = _measured(thresholds, scenes, yeasts)
    known = _measured({"best global": best_global}, scenes, [])
    rows |= {name: [*figures, *[None] * len(yeasts)] for name, figures in known.items()}
    with tempfile.TemporaryDirectory() as name:
        count = QUICK_FOREST_STACKS if quick else FOREST_STACKS
        forest = str(trained_forest(Path(name), count, is_restored=is_restored))
        learnt: dict[str, Segment] = {"random forest": lambda seen: pipeline([cf.PixelClassifier(path=forest)], seen)}
        if is_restored:
            learnt |= {name: partial(predicted, path) for name, path in networks().items()}
        return rows | _measured(learnt, scenes, yeasts)


def _thresholds(report: Report, tuning: Sequence[Seen], kind: str, *, quick: bool) -> dict[str, Segment]:
    """Methods that learn nothing, those with parameters as they do best on the stacks to tune on."""
    windows, factors, floors = ((2.0,), (-0.5,), (0.1,)) if quick else ((1.0, 2.0), (-0.3, -0.8), (0.1,))
    niblack = {
        f"window {w} um, k {k}, floor {f}": local("niblack", w, k, f) for w in windows for k in factors for f in floors
    }
    means = {f"window {w} um, floor {f}": local("adaptive-mean", w, None, f) for w in windows for f in floors}
    radii = ((0.15, 0.3),) if quick else ((0.15,), (0.15, 0.3))
    tubes = {f"{rule}, radii {r} um": vesselness(rule, r) for rule in ("otsu", "li") for r in radii}
    return {
        "Otsu": fixed_rule("otsu"),
        "Li": fixed_rule("li"),
        "local, Niblack": tuned(niblack, tuning, report, f"Niblack, {kind}"),
        "local, adaptive mean": tuned(means, tuning, report, f"adaptive mean, {kind}"),
        "vesselness": tuned(tubes, tuning, report, f"vesselness, {kind}"),
    }


def _measured(
    methods: Mapping[str, Segment], scenes: Mapping[str, Sequence[Seen]], real: Sequence[Seen]
) -> dict[str, Figures]:
    """A row for each method."""
    rows = {}
    for name, segment in methods.items():
        rows[name] = _figures(segment, scenes, real)
        print(name, [f"{value:.3f}" for value in rows[name]], flush=True)
    return rows


def _figures(segment: Segment, scenes: Mapping[str, Sequence[Seen]], real: Sequence[Seen]) -> Figures:
    scores: Figures = []
    lengths: Figures = []
    for stacks in scenes.values():
        masks = [segment(seen) for seen in stacks]
        scores.append(_dice_of(masks, stacks))
        ratios = [max(length_ratio(m, s), 1e-3) for m, s in zip(masks, stacks, strict=True)]
        lengths.append(float(np.exp(np.mean(np.log(ratios)))))
    return [*scores, *lengths, *(length_ratio(segment(seen), seen) for seen in real)]


def _dice_of(masks: Sequence[Mask], stacks: Sequence[Seen]) -> float:
    """The mean over stacks."""
    return float(np.mean([TRAINING.dice(m, s.label) for m, s in zip(masks, stacks, strict=True)]))


def _mean_dice(segment: Segment, scenes: Mapping[str, Sequence[Seen]]) -> dict[str, float]:
    """By the name of the scene."""
    return {name: _dice_of([segment(seen) for seen in stacks], stacks) for name, stacks in scenes.items()}


def _add_rows(
    report: Report,
    rows: Mapping[str, Sequence[float | None]],
    whole: Mapping[str, Mapping[str, float]],
    real: int,
) -> None:
    """Every network against the goals: errors of Dice against the recipe's, of length against what is allowed.

    whole : Dice of all that was found, small objects too, as the recipe's is
    """
    for name, scores in whole.items():
        values = [float(v) for v in rows[name] if v is not None]
        for scene, peer in RECIPE_DICE.items():
            goal = (1 - peer) / (1 - GOAL_DICE[scene])
            row = Row(
                name=f"1 - Dice, {scene}, {name}", ours=1 - scores[scene], peer="recipe", peer_value=1 - peer, goal=goal
            )
            report.rows.append(row)
        if real:
            worst = max(abs(value - 1) for value in values[4:])
            row = Row(name=f"length off, {name}", ours=worst, peer="allowed", peer_value=GOAL_LENGTH, goal=1.0)
            report.rows.append(row)


def _ranges(ranges: Ranges) -> str:
    return f"radius {ranges.radius_um[0]}-{ranges.radius_um[1]} um, {ranges.photons[0]:g}-{ranges.photons[1]:g} photons"


if __name__ == "__main__":
    main()
