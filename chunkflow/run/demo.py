"""The main job on a synthetic volume whose truth is known, and how far the result is from it.

The tolerances are what the pipeline below reaches on volumes of this kind, with a margin. Which tubes there are and how
they are connected must be right. Thinning ends some two radii before the tip of a tube, 0.35 um at each of a hundred
ends, so the length is 8 to 10 % short. Volume follows the threshold, which meets a blurred border only roughly; Dice
compares voxel for voxel, where a tube of five voxels across is mostly border (0.83 to 0.84).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chunkflow.errors import IncompleteError
from chunkflow.geometry.box import Box
from chunkflow.kernels import resample
from chunkflow.plan.pipeline import Pipeline
from chunkflow.run.driver import run_plan
from chunkflow.run.result import Result
from chunkflow.run.synthesise import Truth, synthesise
from chunkflow.storage.files import write_atomic
from chunkflow.storage.omezarr import open_volume

LENGTH_TOLERANCE = 0.12
VOLUME_TOLERANCE = 0.15
DICE_TOLERANCE = 0.20

PIPELINE = """\
# Change a value and run it again: chunkflow run {path}
# Only what depends on the change is computed.
version: 1
input: {{path: image.ome.zarr}}
output: {{path: result}}
block: [96, 128, 128]            # small, so that the demo has several; auto takes what fits the memory
stages:
  - deconvolve: {{psf: {{model: gaussian, fwhm_um: [0.6, 0.25, 0.25]}}, iterations: 20, background: 10}}
  - resample: {{voxel_um: isotropic}}
  - threshold: {{method: otsu}}
  - label: {{connectivity: 26, min_voxels: 64}}
  - skeleton: {{prune_radii: 1.0}}
  - measure: {{intensity: raw}}
"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One number against the truth, `tolerance` relative to it; 0 where it must be exact."""

    name: str
    found: float
    truth: float
    tolerance: float

    @property
    def is_within(self) -> bool:
        """Whether the difference is inside the tolerance."""
        return abs(self.found - self.truth) <= self.tolerance * self.truth


@dataclass(frozen=True, slots=True)
class Demo:
    """A demo that ran."""

    result: Result
    pipeline: Path
    truth: Truth
    rows: tuple[Comparison, ...]

    @property
    def is_within(self) -> bool:
        """Whether everything is inside its tolerance."""
        return all(row.is_within for row in self.rows)


def run_demo(
    folder: str | Path,
    *,
    workers: int | None = None,
    on: str | None = None,
    device: str = "auto",
    on_event: Callable[[Mapping[str, Any]], None] | None = None,
    command: str = "",
) -> Demo:
    """Draw the volume, run the pipeline in `folder` (written there unless the user has one), compare with the truth."""
    place = Path(folder)
    truth = synthesise(place)
    path = written(place / "pipeline.yaml", PIPELINE)
    plan = Pipeline.from_yaml(path).plan(workers=workers)
    result = run_plan(plan, on=on, workers=workers, device=device, on_event=on_event, command=command)
    return Demo(result, path, truth, compare(result, truth, place / "image.ome.zarr"))


def written(path: Path, pipeline: str, **values: object) -> Path:
    """The pipeline's file, unless the user has one there, with its own path and other values in the text."""
    if not path.exists():
        write_atomic(path, pipeline.format(path=path, **values).encode())
    return path


def compare(result: Result, truth: Truth, image: Path) -> tuple[Comparison, ...]:
    """Found against truth, with the tolerances stated above."""
    objects, branches = result.objects, result.branches
    return (
        Comparison("objects", len(objects), truth["objects"], 0),
        Comparison("loops", int(objects.b1_graph.sum()), truth["loops"], 0),
        Comparison("length_um", float(branches.length_um.sum()), truth["length_um"], LENGTH_TOLERANCE),
        Comparison("volume_um3", float(objects.volume_um3.sum()), truth["volume_um3"], VOLUME_TOLERANCE),
        Comparison("dice", foreground_dice(result, image), 1.0, DICE_TOLERANCE),
    )


def foreground_dice(result: Result, image: Path) -> float:
    """Overlap of the objects with the truth, 2 |A and B| / (|A| + |B|), on the result's grid, slab by slab.

    The truth is on the input's grid; each voxel of the result takes the nearest.
    """
    if result.labels is None:
        raise IncompleteError("the result holds no labels to compare", "Add labels to output: save")
    truth = open_volume(image / "labels" / "truth")
    found = result.labels.volume
    nz, ny, nx = found.shape
    sizes = (truth.scale.voxel_um, found.scale.voxel_um)
    both = total = 0
    for z in range(0, nz, 32):
        slab = Box((z, 0, 0), (min(z + 32, nz), ny, nx))
        start, stop = resample.source_box(slab.start, slab.stop, truth.shape, *sizes)
        source = truth.read(Box(start, stop))
        expected = resample.nearest(source, start, slab.start, slab.stop, truth.shape, *sizes) > 0
        actual = found.read(slab) > 0
        both += int(np.count_nonzero(expected & actual))
        total += int(np.count_nonzero(expected)) + int(np.count_nonzero(actual))
    return 2 * both / total if total else 1.0
