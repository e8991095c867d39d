"""The network that comes with the package, on a synthetic stack that it never saw.

Objects are no numbers to compare here: mitochondria fuse, and where two of them touch is a matter of a voxel. What is
compared is how much of the tubes is found, voxel for voxel against their outline grown by one voxel, which is what the
network learnt, and their length up to the tips, since the ends that thinning takes are a fifth of such short tubes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from chunkflow.geometry.scale import Scale
from chunkflow.plan.pipeline import Pipeline
from chunkflow.run.demo import Comparison, Demo, foreground_dice, written
from chunkflow.run.driver import run_plan
from chunkflow.run.synthesise import write_with_truth
from chunkflow.storage.files import write_atomic
from chunkflow.synth.crowds import VOXEL_UM
from chunkflow.synth.mitochondria import ORDINARY, mitochondria_stack

SEED = 20_000
"""Beyond those of the stacks that the network learnt from and was judged on (`examples/train_mitochondria.py`)."""
GROWN_VOX = 1.0
LENGTH_TOLERANCE = 0.12
DICE_TOLERANCE = 0.12

PIPELINE = """\
# The network that comes with chunkflow. Your own: predict: {{path: FOLDER}}; chunkflow train makes one.
version: 1
input: {{path: stack.ome.zarr}}
output: {{path: network, save: [image, probability, labels, skeleton]}}
stages:
  # It was trained on deconvolved stacks, so the PSF matters: the widths of this one are what the stack was drawn with.
  - correct: {{background_percentile: 40}}
  - deconvolve: {{psf: {{fwhm_um: [{z:.3f}, {y:.3f}, {x:.3f}]}}, iterations: 40}}
  - predict: {{path: mitochondria}}
  - label: {{min_voxels: 200}}
  - skeleton: {{prune_radii: 1.0, t0: 0}}
  - measure: {{intensity: raw}}
"""


def why_not() -> str:
    """What is missing for it; empty where nothing is."""
    missing = [name for name in ("torch", "safetensors") if find_spec(name) is None]
    return f"networks need {' and '.join(missing)}: pip install 'chunkflow-engine[models]'" if missing else ""


def run_network_demo(
    folder: str | Path,
    *,
    on: str | None = None,
    device: str = "auto",
    on_event: Callable[[Mapping[str, Any]], None] | None = None,
    command: str = "",
) -> Demo:
    """Draw the stack, run the pipeline in `folder` (written there unless the user has one), compare with the truth."""
    place = Path(folder)
    truth = _drawn(place)
    z, y, x = truth["fwhm_um"]
    path = written(place / "network.yaml", PIPELINE, z=z, y=y, x=x)
    plan = Pipeline.from_yaml(path).plan()
    # One block: a cluster would take longer to start than all of it.
    result = run_plan(plan, on=on or "serial", device=device, on_event=on_event, command=command)
    length = float(result.branches.length_to_tips_um.sum())
    rows = (
        Comparison("length_to_tips_um", length, truth["length_um"], LENGTH_TOLERANCE),
        Comparison("dice", foreground_dice(result, place / "stack.ome.zarr"), 1.0, DICE_TOLERANCE),
    )
    return Demo(result, path, truth, rows)


def _drawn(folder: Path) -> Mapping[str, Any]:
    """What is known of the stack, which is drawn unless it is there."""
    image, known = folder / "stack.ome.zarr", folder / "stack.json"
    if image.exists() and known.exists():
        found: Mapping[str, Any] = json.loads(known.read_text(encoding="utf-8"))
        if found.get("seed") == SEED and "fwhm_um" in found:
            return found
    stack = mitochondria_stack(SEED, ORDINARY)
    counts = np.clip(np.rint(stack.image), 0, np.iinfo(np.uint16).max).astype(np.uint16)
    truth = {"seed": SEED, "length_um": stack.length_um, "fwhm_um": stack.fwhm_um}
    shutil.rmtree(image, ignore_errors=True)
    write_with_truth(image, counts, stack.outline(GROWN_VOX).astype(np.uint8), Scale((VOXEL_UM,) * 3))
    write_atomic(known, (json.dumps(truth, indent=1) + "\n").encode())
    return truth
