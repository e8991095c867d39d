"""A synthetic volume on disk, with its truth beside it.

DST/image.ome.zarr            what a microscope would see
DST/image.ome.zarr/labels/truth    the objects, on the same grid
DST/truth.json                objects, loops, lengths and volumes, in all and for each object

The volume is drawn in memory, so it ends where `chunkflow.synth` does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import UsageError
from chunkflow.geometry.box import Box, Triple
from chunkflow.geometry.scale import MicrometerTriple, Scale
from chunkflow.storage.files import write_atomic
from chunkflow.storage.layout import LONGEST_SHARD, layout_for_core
from chunkflow.storage.omezarr import Channel
from chunkflow.storage.omezarr_write import write_image_group, write_labels_group
from chunkflow.storage.volume import create_array
from chunkflow.synth import optics, phantoms

Truth = Mapping[str, Any]

SHAPE: Triple = (64, 256, 256)
VOXEL_UM: MicrometerTriple = (0.2, 0.08, 0.08)
FORMAT = 1  # raised when the same seed draws something else


def synthesise(
    destination: str | Path,
    *,
    shape: Triple = SHAPE,
    voxel_um: MicrometerTriple = VOXEL_UM,
    seed: int = 0,
    overwrite: bool = False,
) -> Truth:
    """Draw a network of tubes as a microscope sees it, and write it with its truth.

    A volume of the same parameters that is there already is kept as it is. Returns the content of truth.json.

    Raises
    ------
    UsageError : the parameters cannot be drawn, or another image is there and `overwrite` is false.
    DiskFullError : no space is left.
    """
    folder = Path(destination)
    image, known = folder / "image.ome.zarr", folder / "truth.json"
    wanted = {"format": FORMAT, "seed": seed, "shape": list(shape), "voxel_um": list(voxel_um)}
    if image.exists():
        found = _read(known)
        if found is not None and {key: found.get(key) for key in wanted} == wanted:
            return found
        if not overwrite:
            raise UsageError(f"{image} exists and is another image", "Choose another folder, or add --overwrite")
    phantom = phantoms.mitochondria(shape, voxel_um, seed)
    counts = optics.acquire(phantom.labels, voxel_um=voxel_um, seed=seed)
    truth = {
        **wanted,
        "psf_fwhm_um": list(optics.CONFOCAL_FWHM_UM),
        "objects": phantom.objects,
        "loops": phantom.loops,
        "length_um": phantom.length_um,
        "volume_um3": phantom.volume_um3,
        "object_loops": phantom.object_loops.tolist(),
        "object_length_um": phantom.object_length_um.tolist(),
        "object_volume_um3": phantom.object_volume_um3.tolist(),
    }
    partial = folder / ".image.ome.zarr.partial"
    shutil.rmtree(partial, ignore_errors=True)
    write_with_truth(partial, counts, phantom.labels, Scale(voxel_um))
    write_atomic(known, (json.dumps(truth, indent=1) + "\n").encode())
    shutil.rmtree(image, ignore_errors=True)
    partial.rename(image)
    return truth


def _read(path: Path) -> Truth | None:
    if not path.is_file():
        return None
    content: Truth = json.loads(path.read_text(encoding="utf-8"))
    return content


def write_with_truth(image: Path, counts: NDArray[Any], labels: NDArray[Any], scale: Scale) -> None:
    """An OME-Zarr image with the label image `truth`, both (Z, Y, X)."""
    window = (float(counts.min()), float(counts.max()))
    for folder, voxels in ((image, counts), (image / "labels" / "truth", labels)):
        box = Box.of_shape(voxels.shape)
        layout = layout_for_core((LONGEST_SHARD,) * 3, box.shape, voxels.dtype)
        create_array(folder / "0", layout, scale).write(box, np.ascontiguousarray(voxels))
    write_image_group(image / "labels" / "truth", name="truth", levels={"0": scale}, labels=True)
    write_labels_group(image / "labels", ["truth"])
    shown = Channel("tubes", window)
    write_image_group(image, name="synthetic", levels={"0": scale}, channels=[shown], default_z=counts.shape[0] // 2)
