"""Nuclei that touch: parted by a watershed, measured, and compared with the truth.

    python examples/nuclei.py [OUT]

Forty ellipsoids are thrown into a volume until they touch, and imaged as a confocal microscope would: blur, photons,
read noise. The pipeline of `chunkflow init nuclei` then finds them. OUT is `nuclei-out` by default; a second call finds
the result and only prints.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import chunkflow as cf
from chunkflow.analysis.scores import Overlaps, instance_scores
from chunkflow.report.pictures import contrast_window, gray, label_colors
from chunkflow.synth.optics import acquire
from chunkflow.testing.suites import write_volume

VOXEL_UM = (0.5, 0.25, 0.25)
SHAPE = (48, 128, 128)
COUNT = 40


# %% Nuclei with known truth
def draw_nuclei(seed: int = 0) -> NDArray[np.uint16]:
    """Labels of ellipsoids that touch but hardly overlap; a voxel belongs to the one that it lies deepest in."""
    rng = np.random.default_rng(seed)
    um = np.stack(np.indices(SHAPE, np.float32), axis=-1) * np.float32(VOXEL_UM)
    size = np.array(SHAPE) * VOXEL_UM
    depth = np.ones(SHAPE, np.float32)
    labels = np.zeros(SHAPE, np.uint16)
    placed: list[tuple[NDArray[np.float64], float]] = []
    while len(placed) < COUNT:
        radius = rng.uniform(2.4, 3.4)
        centre = rng.uniform(radius, size - radius)
        if any(np.linalg.norm(centre - other) < 0.92 * (radius + r) for other, r in placed):
            continue
        placed.append((centre, radius))
        axes = radius * rng.uniform(0.88, 1.12, 3)
        level = np.sqrt((((um - centre) / axes) ** 2).sum(-1)).astype(np.float32)
        inside = (level < 1) & (level < depth)
        labels[inside], depth[inside] = len(placed), level[inside]
    return labels


# %% The pipeline
def pipeline() -> cf.Pipeline:
    """Smoothed and thresholded, then parted where the distance to the background has a waist."""
    return cf.Pipeline(
        [
            cf.Threshold(method="otsu", smooth_um=0.4),
            cf.Instances(on="distance", smooth_um=0.4, min_seed_distance_um=2.5, min_volume_um3=15),
            cf.Measure(intensity="raw"),
        ]
    )


def run(out: Path) -> tuple[cf.Result, NDArray[np.uint16]]:
    """Draw, image and run, in this process. Returns the result and the true labels."""
    truth = draw_nuclei()
    image = out / "nuclei.ome.zarr"
    if not image.exists():
        write_volume(image, acquire(truth, voxel_um=VOXEL_UM, seed=0, photons=120.0), VOXEL_UM)
    return pipeline().plan(image, out / "result").run(on="serial"), truth


# %% How many were found
def scores(result: cf.Result, truth: NDArray[np.uint16]) -> dict[str, float]:
    """Counts, adapted Rand error (0 is perfect) and average precision at an IoU of 0.5 and 0.75."""
    found = result.labels[...]
    given = instance_scores([Overlaps.of(truth, found)])
    wanted = ("adapted_rand", "average_precision_50", "average_precision_75")
    counts = {"true nuclei": float(truth.max()), "found": float(found.max())}
    return counts | {name: given[name] for name in wanted}


# %% A picture
def picture(result: cf.Result) -> Image.Image:
    """The middle plane: the image, and the objects in colours."""
    middle = result.labels.shape[0] // 2
    image, labels = result.image[middle], result.labels[middle]
    seen = np.repeat(gray(image, contrast_window([image]))[..., None], 3, axis=2)
    objects = np.where(labels[..., None] > 0, label_colors(labels), 0).astype(np.uint8)
    return Image.fromarray(np.concatenate([seen, objects], axis=1)).resize((768, 384), Image.Resampling.NEAREST)


# %% end
def main() -> None:
    """Read the argument, print the tables, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("nuclei-out"), help="folder of the results")
    given = parser.parse_args()
    result, truth = run(given.out)
    for name, value in scores(result, truth).items():
        print(f"{name:<22} {value:.3f}".rstrip("0").rstrip("."))
    print(result.objects[["volume_um3", "sphericity", "intensity_mean"]].describe().round(2))
    print(f"{len(result.contacts)} pairs touch")
    picture(result).save(given.out / "nuclei.png")


if __name__ == "__main__":
    main()
