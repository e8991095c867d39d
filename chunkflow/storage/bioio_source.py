"""Files of microscopes, through the readers of bioio: CZI, LIF, ND2 and whatever else a reader is installed for.

bioio and its readers are an extra (`chunkflow-engine[formats]`); bioio-czi is under the GPL and is for users to add.
Positions of a stage are not kept, tiles of a mosaic are put together by the reader, and one scene is read at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chunkflow.errors import InputError, InputNotFoundError, UsageError
from chunkflow.geometry.scale import MicrometerTriple
from chunkflow.storage.image_source import ArraySource, ChannelStyle, Index, is_size, native

READERS = {
    ".czi": "bioio-czi",
    ".lif": "bioio-lif",
    ".nd2": "bioio-nd2",
}
"""Endings we know a reader for, and its package."""
_SHOWN = 12


def bioio_source(path: Path, *, scene: str | None = None) -> ArraySource:
    """Open one scene without reading its voxels.

    Parameters
    ----------
    scene : name or number, needed where the file has several.

    Raises
    ------
    UsageError : bioio, or a reader for this kind of file, is not installed.
    InputError : the reader cannot read it, or the scene is missing or not there.
    """
    if not path.is_file():
        raise InputNotFoundError(f"{path} is not a file", "Check the path")
    image = _opened(path)
    _choose_scene(image, path, scene)
    letters = str(image.dims.order).lower()
    lengths = tuple(int(length) for length in image.shape)
    if set(letters) - set("tczyx"):
        raise InputError(
            f"{path} has the axes {letters.upper()}; only T, C, Z, Y, X can be read", "Export it as OME-TIFF"
        )
    kept = [(letter, n) for letter, n in zip(letters, lengths, strict=True) if n > 1 or letter in "zyx"]

    def read(index: Index) -> Any:
        places = dict(zip((letter for letter, _ in kept), index, strict=True))
        lazy = image.dask_data[tuple(places.get(letter, 0) for letter in letters)]
        try:
            return lazy.compute(scheduler="synchronous")
        except Exception as error:  # readers raise whatever they like
            raise InputError(f"{path} cannot be read ({error})", "Check the file, or export it as OME-TIFF") from error

    voxel_um, voxel_source = _voxel_size(image, dict(kept).get("z", 1))
    return ArraySource(
        name=str(path),
        letters="".join(letter for letter, _ in kept),
        lengths=tuple(n for _, n in kept),
        dtype=native(image.dtype, str(path)),
        read=read,
        voxel_um=voxel_um,
        voxel_source=voxel_source,
        named=tuple(ChannelStyle(name=str(name)) for name in image.channel_names or ()),
    )


def _opened(path: Path) -> Any:
    package = READERS.get(path.suffix.lower(), "a reader of bioio for it")
    install = f"pip install bioio {package}" if package.startswith("bioio-") else "Export it as OME-TIFF"
    try:
        from bioio import BioImage
    except ImportError as error:
        raise UsageError(f"{path} needs bioio and {package}, which are not installed", install) from error
    try:
        return BioImage(path)
    except Exception as error:  # of every reader's own
        if type(error).__name__ == "UnsupportedFileFormatError":
            raise UsageError(f"no reader that is installed can read {path}", install) from error
        raise InputError(f"{path} cannot be read ({error})", "Check the file, or export it as OME-TIFF") from error


def _choose_scene(image: Any, path: Path, scene: str | None) -> None:
    scenes = [str(name) for name in image.scenes]
    listed = ", ".join(scenes[:_SHOWN]) + (", ..." if len(scenes) > _SHOWN else "")
    if scene is None:
        if len(scenes) > 1:
            raise InputError(
                f"{path} holds {len(scenes)} scenes: {listed}",
                "Choose one: chunkflow import SOURCE DESTINATION --dataset NAME",
            )
        return
    if scenes.count(scene) == 1:
        image.set_scene(scenes.index(scene))
    elif scene.isdecimal() and int(scene) < len(scenes):
        image.set_scene(int(scene))
    else:
        raise InputError(f"{path} has no one scene {scene!r}", f"It holds {listed}")


def _voxel_size(image: Any, planes: int) -> tuple[MicrometerTriple | None, str]:
    sizes = image.physical_pixel_sizes
    z, y, x = sizes.Z, sizes.Y, sizes.X
    if not y or not x or (not z and planes > 1):
        return None, f"the file gives z {z}, y {y}, x {x} um, so its voxel size is not known"
    voxel = (float(z or 1.0), float(y), float(x))
    if not is_size(voxel) or voxel == (1.0, 1.0, 1.0):
        return None, f"the file gives a voxel size of {voxel} um, which cannot be meant"
    return (
        voxel,
        "metadata of the microscope" if z else "metadata of the microscope; a single plane counts as 1 um thick",
    )
