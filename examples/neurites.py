"""Neurites: labels in, skeletons and contacts out.

    python examples/neurites.py [OUT] [--labels EM.tif --voxel-um Z Y X]

Electron micrographs are often segmented already. Then the pipeline begins with the labels: their ids are kept, every
one gets its skeleton, its length and its calibre, and a table says which of them touch and on how large an area.
Without a segmentation of your own, a bundle of neurites is drawn. OUT is `neurites-out` by default.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

import chunkflow as cf
from chunkflow.report.pictures import label_colors
from chunkflow.testing.suites import write_volume

VOXEL_UM = (0.04, 0.016, 0.016)
SHAPE = (64, 160, 160)


# %% A bundle of neurites
def draw_neurites(count: int = 24, seed: int = 0) -> NDArray[np.uint16]:
    """Tubes that wander along x through the volume; where two meet, each voxel belongs to the nearer one."""
    rng = np.random.default_rng(seed)
    lines = np.zeros(SHAPE, np.uint16)
    size = np.array(SHAPE) * VOXEL_UM
    for label in range(1, count + 1):
        steps = rng.normal(0, 0.004, (2 * SHAPE[2], 2)).cumsum(axis=0)
        yz = rng.uniform(0.1, 0.9, 2) * size[:2] + ndimage.gaussian_filter1d(steps, 12, axis=0)
        x = np.repeat(np.arange(SHAPE[2]), 2)
        z, y = (np.round(yz / np.array(VOXEL_UM[:2])).astype(int) % np.array(SHAPE[:2])).T
        lines[z, y, x] = label
    away, nearest = ndimage.distance_transform_edt(lines == 0, sampling=VOXEL_UM, return_indices=True)
    labels = lines[tuple(nearest)]
    labels[away > 0.16] = 0
    return labels


# %% Labels in, skeletons and tables out
def pipeline() -> cf.Pipeline:
    """Skeletons of every label. A side branch shorter than twice the radius there is roughness of the surface."""
    return cf.Pipeline(
        [cf.Skeleton(prune_radii=2.0), cf.Measure(intensity="none")],
        input=cf.InputOptions(kind="labels"),
        output=cf.OutputOptions(save=("labels", "skeleton")),
    )


def run(out: Path, labels: Path | None = None, voxel_um: tuple[float, float, float] = VOXEL_UM) -> cf.Result:
    """Run on a segmentation in a TIFF, or on drawn neurites; in this process."""
    volume = out / "neurites.ome.zarr"
    if not volume.exists() and labels is None:
        write_volume(volume, draw_neurites(), VOXEL_UM)
    elif not volume.exists() and labels is not None:
        cf.import_image(labels, volume, voxel_um=voxel_um)
    return pipeline().plan(volume, out / "result").run(on="serial")


# %% The longest, and what they touch
def longest(result: cf.Result, count: int = 5) -> pd.DataFrame:
    """Length, branches, mean radius and number of partners of the longest neurites."""
    networks = result.networks.set_index("object_id").nlargest(count, "length_um")
    branches = result.branches.assign(weighted=result.branches.radius_mean_um * result.branches.length_um)
    sums = branches.groupby("object_id")[["weighted", "length_um"]].sum()
    touching = pd.concat([result.contacts.object_a, result.contacts.object_b]).value_counts()
    found = networks[["length_um", "branches", "ends", "loops"]].copy()
    found["radius_um"] = (sums.weighted / sums.length_um).reindex(found.index)
    found["partners"] = touching.reindex(found.index, fill_value=0)
    return found


# %% A picture
def picture(result: cf.Result) -> Image.Image:
    """Looking down z: each object in its colour, dimmed, and its skeleton bright."""
    labels, skeleton = result.labels[...], result.skeleton[...]
    first = np.take_along_axis(labels, (labels > 0).argmax(axis=0)[None], axis=0)[0]
    lines = skeleton.max(axis=0)
    shown = np.where(first[..., None] > 0, label_colors(first) // 3, 0)
    shown = np.where(lines[..., None] > 0, label_colors(lines), shown).astype(np.uint8)
    return Image.fromarray(shown).resize((640, 640), Image.Resampling.NEAREST)


# %% end
def main() -> None:
    """Read the arguments, print the tables, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("neurites-out"), help="folder of the results")
    parser.add_argument("--labels", type=Path, help="TIFF of a segmentation")
    parser.add_argument("--voxel-um", type=float, nargs=3, default=VOXEL_UM, metavar=("Z", "Y", "X"))
    given = parser.parse_args()
    result = run(given.out, given.labels, tuple(given.voxel_um))
    print(longest(result).round(3).to_string())
    print(f"{len(result.contacts)} pairs touch, {result.contacts.area_um2.sum():.1f} um2 in all")
    picture(result).save(given.out / "neurites.png")


if __name__ == "__main__":
    main()
