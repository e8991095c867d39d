"""Train the network for mitochondria that comes with chunkflow, from synthetic stacks alone, and say what it does.

    python examples/train_mitochondria.py [OUT] [--seed N] [--yeast FOLDER] [--threads 1] [--quick]

    OUT/stacks/      the stacks to learn from, OME-Zarr with their labels     made once, some minutes
    OUT/seed-N/      the network that seed N trains, as `predict` loads it    under ten minutes on two cores
    OUT/seed-N.json  what it does on stacks that it never saw

Stacks are deconvolved before they are learnt from, each with the Gaussian core of its own PSF, as somebody deconvolves
who knows the optics: how thick a tube is cannot be told from a blurred one while the blur is not known.

Kill it and run the same command again: what is there is kept, and a training goes on from its last checkpoint and
ends with the same weights. A label is the true outline grown by one voxel of 0.056 um. The threshold is the one that
makes lengths right on synthetic stacks of the ranges that were learnt, and is written into the network's own file; real
images take no part in any choice. With --yeast (the folder of `examples/mitochondria.py`) lengths on them are told too.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

import chunkflow as cf
from chunkflow.geometry.box import Box
from chunkflow.geometry.scale import Scale
from chunkflow.models.augment import Augment, Intensity
from chunkflow.models.load import load_model, save_model
from chunkflow.models.recipe import Loss, Recipe
from chunkflow.models.shipped import load_unet
from chunkflow.models.usage import Normalization
from chunkflow.run.train import Training, train
from chunkflow.run.training import About, Pair, Validation
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.omezarr_write import write_image_group, write_labels_group
from chunkflow.storage.volume import create_array
from chunkflow.synth.crowds import VOXEL_UM
from chunkflow.synth.mitochondria import HARDER, ORDINARY, Ranges, Stack, mitochondria_stack
from chunkflow.testing.memory import run_in_memory

GROWN_VOX = 1.0
"""What a label is larger than the outline by: thin tubes stay whole, and hollow ones do not occur."""
STACKS, QUICK_STACKS = 184, 4
STEPS, QUICK_STEPS = 11000, 20
ITERATIONS = 40
"""Of Richardson and Lucy's deconvolution, before learning and before applying."""
BACKGROUND_PERCENTILE = 40.0
"""Grey value that is subtracted before: most of a stack is no tube. What is left is sharper than with the background as
a part of the model."""
WIDER = {"intensity_factor": (2.0, 6.0), "density": (0.05, 0.4), "background": (0.02, 0.2), "cytoplasm": (0.0, 0.05)}
"""Surroundings beside those of the stacks held out."""
WORSE = {
    "sigma_axial_um": (0.22, 0.34),
    "tail": (0.0, 0.25),
    "tail_spread": (0.6, 1.8),
    "tail_shift_um": (-0.5, 0.5),
    "halo": (0.0, 0.1),
    "stray_probability": 1.0,
}
"""Optics beside those of the stacks held out: what is around a bright tube is no second tube."""
_OTHER = tuple(replace(ranges, **WIDER, **WORSE) for ranges in (ORDINARY, HARDER))
LEARNT = (HARDER, _OTHER[0], ORDINARY, _OTHER[1])
"""Of stacks in turn; half of them seen through worse optics."""
CHOOSING_SEED, HELD_OUT_SEED = 5_000, 10_000  # the stacks to learn from are 0, 1, 2 ...
CHOOSING, HELD_OUT = 12, 8
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
CUBE = (VOXEL_UM,) * 3
WHOLE = (4096, 4096, 4096)
SMALLEST_VOX = 500
"""0.088 um^3, as in `mitochondria.yaml`."""
YEAST_VOXEL_UM = (0.2, 0.056, 0.056)
YEAST_PSF = cf.Psf(
    microscope="spinning-disk", objective="100x/1.4 oil", emission_nm=600, pinhole_um=50, sample_index=1.36
)
"""As in `mitochondria.yaml`."""
YEAST_UM = {"yeast_mito_01": 46.57995, "yeast_mito_03": 15.97084, "yeast_mito_05": 16.01066}
"""Total length that MitoGraph reports."""

Probability = NDArray[np.float32]


def training(folder: Path, count: int, *, steps: int, seed: int, threads: int) -> Training:
    """The description of the training, as a YAML file would hold it."""
    stacks = [folder / f"{number:03}.ome.zarr" for number in range(count)]
    return Training(
        pairs=tuple(Pair(image=str(stack), labels=str(stack / "labels" / "mitochondria")) for stack in stacks),
        # z is sampled by the network as coarsely as a microscope would: half the work, and nothing is lost to the PSF
        network={"widths": [16, 32, 64], "norm": "batch", "stem": [4, 2, 2], "pools": [[1, 2, 2], [2, 2, 2]]},
        normalization=Normalization(kind="percentiles", percentiles=(50.0, 99.9), asinh=3.0),
        # many small patches teach more than a few large ones in the same time; no cube, or z would be turned into x
        patch=(40, 32, 32),
        deconvolved=True,
        foreground=0.85,
        # a network that is applied sees mirrors at the faces of a volume, not the ends of patches
        beyond=0.25,
        augment=replace(
            Augment.none(),
            flip=Augment().flip,
            turn=Augment().turn,
            # how bright 1 is depends on how much of a volume is filled, which the network must not depend on
            intensity=Intensity(probability=1.0, gain=(0.8, 1.25), offset=(0.0, 0.0), gamma=(1.0, 1.0)),
        ),
        validation=Validation(share=0.0),
        recipe=Recipe(
            steps=steps,
            batch=3,
            loss=Loss.of("2 bce + dice"),
            learning_rate=4e-3,
            average=0.99,
            checkpoint_every=100,
            seed=seed,
            threads=threads,
        ),
        about=About(
            name="mitochondria",
            description="Mitochondria in confocal stacks with voxels of 0.056 um; trained on synthetic stacks alone.",
            authors=("the chunkflow developers",),
            license="BSD-3-Clause",
        ),
    )


def learnt_stack(number: int) -> Stack:
    """A stack of the ranges that are learnt."""
    return mitochondria_stack(number, LEARNT[number % len(LEARNT)])


def make_stacks(folder: Path, count: int, threads: int) -> None:
    """The stacks to learn from; those that are there already are kept."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda number: make_stack(folder / f"{number:03}.ome.zarr", number), range(count)))


def make_stack(path: Path, number: int) -> None:
    """One of them, unless it is there."""
    if path.exists():
        return
    stack = learnt_stack(number)
    stages = restoration(cf.Psf(fwhm_um=stack.fwhm_um))
    restored = run_in_memory(stages, stack.image, block=WHOLE, voxel_um=CUBE, save=("image",)).arrays["image"]
    partial = path.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_stack(partial, restored, stack.outline(GROWN_VOX).astype(np.uint8))
    partial.rename(path)


def restoration(psf: cf.Psf) -> list[Any]:
    """What is done to a stack before a network sees it."""
    return [cf.Correct(background_percentile=BACKGROUND_PERCENTILE), cf.Deconvolve(psf=psf, iterations=ITERATIONS)]


def probability_of(network: Path, stack: Stack) -> Probability:
    """What the network says of a synthetic stack, deconvolved by the core of its PSF."""
    return probability(network, stack.image, CUBE, restoration(cf.Psf(fwhm_um=stack.fwhm_um)))


def write_stack(path: Path, image: NDArray[Any], labels: NDArray[Any]) -> None:
    """An OME-Zarr image with labels on its grid."""
    scale = Scale(CUBE)
    for folder, voxels in ((path, image), (path / "labels" / "mitochondria", labels)):
        box = Box.of_shape(voxels.shape)
        layout = layout_for_core((128,) * 3, box.shape, voxels.dtype)
        create_array(folder / "0", layout, scale).write(box, np.ascontiguousarray(voxels))
    write_image_group(path / "labels" / "mitochondria", name="mitochondria", levels={"0": scale}, labels=True)
    write_labels_group(path / "labels", ["mitochondria"])
    write_image_group(path, name="synthetic", levels={"0": scale})


def probability(
    network: Path, image: NDArray[Any], voxel_um: tuple[float, float, float], before: Sequence[Any] = ()
) -> Probability:
    """What the network says of every voxel, by the stages that a user would name."""
    stages = [*before, cf.Predict(path=str(network)), cf.Label()]
    left = run_in_memory(stages, image, block=WHOLE, voxel_um=voxel_um, save=("probability",))
    return np.asarray(left.arrays["probability"])


def length_um(image: NDArray[np.float32], threshold: float) -> float:
    """Total length of what is above a threshold: small objects dropped, thinned, spurs pruned, measured."""
    stages = [
        cf.Threshold(method="fixed", value=threshold),
        cf.Label(min_voxels=SMALLEST_VOX),
        cf.Skeleton(prune_radii=1.0, t0=0),
        cf.Measure(),
    ]
    branches = run_in_memory(stages, image, block=WHOLE, voxel_um=CUBE).tables["branches"]
    return float(np.sum(branches["length_to_tips_um"]))


def true_length_um(stack: Stack) -> float:
    """Of the true label, by the same stages: what they make of crowded tubes is no fault of a network."""
    return length_um(stack.outline(GROWN_VOX).astype(np.float32), 0.5)


def dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Dice coefficient, 1 for two empty masks."""
    both = np.count_nonzero(found & truth)
    return 2 * both / (np.count_nonzero(found) + np.count_nonzero(truth)) if found.any() or truth.any() else 1.0


def chosen_threshold(network: Path, count: int) -> tuple[float, dict[str, float]]:
    """The threshold for lengths, from stacks of their own, and the length errors of all that were tried.

    An error is |log(length / true length)|, its mean over the stacks counts. Thresholds within a standard error of the
    best cannot be told from it (Breiman et al. 1984, section 3.4.3); of them the one with the best Dice is taken.
    """
    stacks = [learnt_stack(CHOOSING_SEED + number) for number in range(count)]
    truths = np.array([true_length_um(stack) for stack in stacks])
    found = [probability_of(network, stack) for stack in stacks]
    lengths = np.array([[max(length_um(p, threshold), 1e-3) for p in found] for threshold in THRESHOLDS])
    labels = [stack.outline(GROWN_VOX) for stack in stacks]
    scores = {t: np.mean([dice(p > t, label) for p, label in zip(found, labels, strict=True)]) for t in THRESHOLDS}
    errors = np.abs(np.log(lengths / truths))
    means = errors.mean(axis=1)
    best = int(means.argmin())
    allowed = means[best] + errors[best].std() / count**0.5
    good = [threshold for threshold, mean in zip(THRESHOLDS, means, strict=True) if mean <= allowed]
    told = {str(t): round(float(mean), 4) for t, mean in zip(THRESHOLDS, means, strict=True)}
    return max(good, key=scores.__getitem__), told


def with_threshold(network: Path, threshold: float) -> None:
    """Write the threshold into the network's own file, for `predict` to take."""
    found = load_model(network).usage
    usage = replace(found, threshold=threshold, outputs=("mitochondria",))
    if usage != found:
        unet = load_unet(network)
        save_model(unet, unet.config, network, usage)


def held_out(network: Path, ranges: Ranges, threshold: float, count: int) -> dict[str, Any]:
    """Dice, and length over the true one, on stacks that nothing was learnt or chosen from."""
    scores, ratios = [], []
    for number in range(count):
        stack = mitochondria_stack(HELD_OUT_SEED + number, ranges)
        found = probability_of(network, stack)
        scores.append(dice(found > threshold, stack.outline(GROWN_VOX)))
        ratios.append(length_um(found, threshold) / true_length_um(stack))
    return {
        "dice": float(np.mean(scores)),
        "dice_each": [round(score, 4) for score in scores],
        "length": float(np.exp(np.mean(np.log(ratios)))),
        "length_each": [round(ratio, 3) for ratio in ratios],
    }


def on_yeast(network: Path, folder: Path, threshold: float) -> dict[str, float]:
    """Length over MitoGraph's, for each real stack that is there."""
    found = {}
    for name, published in YEAST_UM.items():
        path = folder / f"{name}.tif"
        if path.is_file():
            image = tifffile.imread(path)
            before = [*restoration(YEAST_PSF), cf.Resample(voxel_um="isotropic")]
            seen = probability(network, image, YEAST_VOXEL_UM, before)
            found[name] = length_um(seen, threshold) / published
    return found


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The table of a result."""
    steps, seconds = result["steps"], result["seconds"]
    yield f"seed {result['seed']}: {steps} steps in {seconds:.0f} s, threshold {result['threshold']}"
    for name in ("ordinary", "harder"):
        row = result[name]
        yield f"  {name:10} Dice {row['dice']:.3f}   length over the label's {row['length']:.3f}"
    for name, ratio in result["yeast"].items():
        yield f"  {name:14} length over MitoGraph's {ratio:.3f}"


def main() -> None:
    """Read the arguments, make, train, choose, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("mitochondria-training"), help="folder of everything")
    parser.add_argument("--seed", type=int, default=0, help="of first weights and of patches")
    parser.add_argument("--threads", type=int, default=1, help="of torch; the last digits depend on it")
    parser.add_argument("--yeast", type=Path, help="folder of the yeast stacks")
    parser.add_argument("--quick", action="store_true", help="a few steps on a few stacks, to see that it runs")
    given = parser.parse_args()
    count, steps = (QUICK_STACKS, QUICK_STEPS) if given.quick else (STACKS, STEPS)
    choosing, evaluating = (1, 1) if given.quick else (CHOOSING, HELD_OUT)
    stacks = given.out / ("quick-stacks" if given.quick else "stacks")
    stacks.mkdir(parents=True, exist_ok=True)
    make_stacks(stacks, count, given.threads)
    network = given.out / f"{'quick-' if given.quick else ''}seed-{given.seed}"

    def show(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and event["step"] % 100 == 0:
            print(f"step {event['step']} of {event['steps']}, loss {event['loss']:.3f}", flush=True)

    began = perf_counter()
    described = training(stacks, count, steps=steps, seed=given.seed, threads=given.threads)
    trained = train(described, network, device="cpu", on_event=show)
    print(f"trained, {perf_counter() - began:.0f} s of this call", flush=True)
    threshold, errors = chosen_threshold(network, choosing)
    with_threshold(network, threshold)
    result = {
        "seed": given.seed,
        "steps": steps,
        "seconds": trained.record["seconds"],
        "threads": given.threads,
        "threshold": threshold,
        "threshold_errors": errors,
        "ordinary": held_out(network, ORDINARY, threshold, evaluating),
        "harder": held_out(network, HARDER, threshold, evaluating),
        "yeast": on_yeast(network, given.yeast, threshold) if given.yeast else {},
    }
    network.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines(result)))


if __name__ == "__main__":
    main()
