"""Files that are either whole or not there, in local folders and in object stores.

A local file is written under a temporary name beside its place and renamed, so a reader (or a kill) sees the old bytes
or the new ones. The temporary name is the one zarr uses for its chunks, so one sweep removes both kinds of leftovers.
Works on file systems where a rename replaces atomically: local disks, NFS, Lustre. In an object store a put replaces
atomically; what is written by several calls is made in a temporary file of this machine and put whole.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from chunkflow.errors import DiskFullError, is_disk_full
from chunkflow.storage.connections import at_once
from chunkflow.storage.stores import ObjectPath, Place, delete, place_of, sizes_of

_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial$")


@contextmanager
def disk_full_reported(path: str | Place) -> Iterator[None]:
    """Turn "no space left" from the system into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise DiskFullError(
                f"no space left to write {path}", "Free some space and run the same command again"
            ) from error
        raise


@contextmanager
def atomic_path(path: str | Place, *, durable: bool = True) -> Iterator[Path]:
    """A temporary local path to write; it becomes `path` when the block ends well and vanishes when it does not.

    `durable` forces the bytes to disk first. Without it a power loss can leave an empty file in place of the old one,
    which is fine where the reader checks and the file can be made again.
    """
    final = place_of(path)
    if isinstance(final, ObjectPath):
        with _temporary(final) as whole:
            yield whole
            final.upload(whole)
        return
    partial = final.with_name(f"{final.name}.{uuid.uuid4().hex}.partial")
    with disk_full_reported(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            if durable:
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
            partial.replace(final)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def _temporary(place: ObjectPath) -> Iterator[Path]:
    with temporary_folder() as folder:
        yield folder / place.name


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder of this machine for temporary files, which is gone in the end.

    Raises
    ------
    DiskFullError : there is no room for them, or their folder is gone. No FileNotFoundError: nobody is to take that for
        an object that is absent.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix="chunkflow-")
    except OSError as error:
        raise no_temporary_files(error) from error
    with made as name:
        folder = Path(name)
        try:
            yield folder
        except OSError as error:
            if is_disk_full(error) or not folder.is_dir():
                raise no_temporary_files(error) from error
            raise


def no_temporary_files(error: OSError) -> DiskFullError:
    """What is said where temporary files cannot be written."""
    try:
        where = tempfile.gettempdir()
    except OSError:  # none of the usual ones can be
        where = os.environ.get("TMPDIR", "any of the usual folders")
    return DiskFullError(
        f"temporary files cannot be written to {where} ({error.strerror or error})",
        "Make room there, or set TMPDIR to a folder that has some, and run the same command again: what is done is "
        "kept",
    )


def write_atomic(path: str | Place, content: bytes, *, durable: bool = True) -> None:
    """Write a whole file; at any moment it holds its old content or `content` (`durable` as for `atomic_path`)."""
    place = place_of(path)
    if isinstance(place, ObjectPath):
        place.write_bytes(content)
        return
    with atomic_path(place, durable=durable) as partial:
        partial.write_bytes(content)


@contextmanager
def local_copy(path: str | Place) -> Iterator[Path]:
    """A path that any library can read: the file itself, or a copy of the object for as long as it is needed.

    Raises
    ------
    FileNotFoundError : there is no such object.
    """
    place = place_of(path)
    if not isinstance(place, ObjectPath):
        yield place
        return
    with _temporary(place) as copy:
        copy.write_bytes(place.read_bytes())
        yield copy


@contextmanager
def written_in(folder: Place) -> Iterator[Path]:
    """A local folder to write files of any kind in: `folder` itself, or one whose files are put there in the end."""
    if not isinstance(folder, ObjectPath):
        yield folder
        return
    with temporary_folder() as made:
        yield made
        files = [path for path in made.rglob("*") if path.is_file()]
        at_once(lambda file: (folder / file.relative_to(made).as_posix()).upload(file), files)


def copy_tree(source: ObjectPath, target: ObjectPath) -> None:
    """Copy all objects below a prefix, inside the store."""
    at_once(lambda path: path.copy_to(target / path.relative_to(source)), [path for path, _ in source.walk()])


def remove_tree(folder: Place) -> None:
    """Delete a folder with all that is in it, or nothing if it is not there."""
    if isinstance(folder, ObjectPath):
        delete(path for path, _ in folder.walk())
    else:
        shutil.rmtree(folder, ignore_errors=True)


def remove_files(folder: str | Place, names: Sequence[str]) -> None:
    """Delete files of a folder; those that are not there are deleted already."""
    place = place_of(folder)
    if isinstance(place, ObjectPath):
        delete(place / name for name in names)
        return
    for name in names:
        (place / name).unlink(missing_ok=True)


def sweep_partial_files(folder: str | Place) -> int:
    """Remove what killed writers left below `folder` and return how many files that were.

    Only for a moment when nobody writes there: it cannot tell a stale file from one being written. Stores have none.
    """
    swept = 0
    if isinstance(folder, ObjectPath):
        return swept
    for root, _, names in os.walk(folder):
        for name in names:
            if _PARTIAL.search(name):
                Path(root, name).unlink(missing_ok=True)
                swept += 1
    return swept


def is_partial(name: str) -> bool:
    """Whether a file of that name is somebody's unfinished write."""
    return _PARTIAL.search(name) is not None


def object_sizes(folder: str | Place, names: Sequence[str]) -> list[int | None]:
    """Size in bytes of each file, None where there is none."""
    place = place_of(folder)
    if isinstance(place, ObjectPath):
        return sizes_of([place / name for name in names])
    return [_size(place / name) for name in names]


def size_of(path: Place) -> int | None:
    """Size in bytes of a file, None where there is none."""
    return path.size() if isinstance(path, ObjectPath) else _size(path)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
