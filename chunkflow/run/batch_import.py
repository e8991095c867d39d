"""A file as the OME-Zarr image that a run reads: imported for the time of the run, then removed.

The copy lies beside the output, never in it, and nothing is left twice: the result keeps the image it was segmented
on (`output: {save: ...}`), and the file is there. Chunks of the copy carry the time of the file, so that a second
import of the same file is the same input to the engine, and a resumed run goes on.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from chunkflow.errors import ChunkflowError, DiskFullError, OutputInUseError
from chunkflow.geometry.scale import MicrometerTriple
from chunkflow.run.batch_inputs import found_items
from chunkflow.storage.importing import import_image
from chunkflow.storage.omezarr import Format
from chunkflow.storage.volume import local_path


@contextmanager
def readable(
    path: str | Path, folder: Path, *, voxel_um: MicrometerTriple | None = None, inner: str | None = None
) -> Iterator[Path]:
    """The image at `path` as an OME-Zarr one: itself, or an import of it in `folder` that is gone afterwards.

    Parameters
    ----------
    inner : which image of a file that holds several.

    Raises
    ------
    InputNotFoundError, InputError : the file cannot be read, or states no voxel size and none is given.
    OutputInUseError : another process has an import there.
    """
    source = local_path(path)
    if source.is_dir():
        yield source
        return
    image = folder / f"{source.name.split('.')[0] or 'image'}.ome.zarr"
    with _held(folder):
        try:
            import_image(source, image, voxel_um=voxel_um, dataset=inner)
            _date(image, os.stat(source).st_mtime_ns)
            yield image
        except ChunkflowError as error:
            name_source(error, image, source)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def name_source(error: ChunkflowError, image: Path, source: Path) -> None:
    """Let an error speak of the file that the user has, not of its import, which is gone."""
    error.args = tuple(a.replace(str(image), str(source)) if isinstance(a, str) else a for a in error.args)
    error.what, error.remedy = (text.replace(str(image), str(source)) for text in (error.what, error.remedy))


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """An empty folder that no other process has; what a killed one left in it is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_there = os.fstat(handle).st_ino == folder.stat().st_ino
        except (BlockingIOError, FileNotFoundError):
            is_there = False
        if not is_there:
            raise OutputInUseError(f"another run reads {folder}", "Wait for it, or choose another output")
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        yield
    finally:
        os.close(handle)


def import_each(
    sources: Sequence[str | Path],
    destination: str | Path,
    *,
    voxel_um: MicrometerTriple | None = None,
    axes: str | None = None,
    format: Format = "0.5",
    overwrite: bool = False,
) -> Iterator[tuple[str, str]]:
    """Import every file of a batch into `destination/NAME.ome.zarr`; (NAME, error) of each, "" where there is none.

    What is there already is left as it is without `overwrite`, so the same call goes on where it was stopped.
    """
    target = local_path(destination)
    for item in found_items(sources, output=target):
        image = target / f"{item.name}.ome.zarr"
        if image.exists() and not overwrite:
            yield item.name, ""
            continue
        try:
            import_image(
                item.path,
                image,
                voxel_um=voxel_um,
                axes=axes,
                dataset=item.dataset,
                format=format,
                overwrite=overwrite,
            )
        except DiskFullError:
            raise
        except (ChunkflowError, OSError) as error:
            yield item.name, str(error)
        else:
            yield item.name, ""


def _date(folder: Path, time_ns: int) -> None:
    """Give every file below a folder the same time."""
    for root, _, names in os.walk(folder):
        for name in names:
            os.utime(Path(root, name), ns=(time_ns, time_ns))
