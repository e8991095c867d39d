"""Files of an object store that a library reads from a disk alone, as those of networks: copied, once per process.

    s3://bucket/model/       ->  /tmp/chunkflow-x8f2/model/       for as long as the process lives
    s3://bucket/net.onnx     ->  /tmp/chunkflow-k21c/net.onnx

What changed in the store is copied again. Every process makes its own copy: workers may be on other machines.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from threading import Lock

from chunkflow.errors import InputError, InputNotFoundError
from chunkflow.storage.connections import Stamp, at_once
from chunkflow.storage.files import no_temporary_files
from chunkflow.storage.stores import ObjectPath, is_url, place_of

HEADERS = ("model.yaml", "rdf.yaml", "bioimageio.yaml")
"""What a folder must hold to be copied: a name of a volume would copy all of it."""

_copies: dict[str, tuple[Mapping[str, Stamp], Path]] = {}
_lock = Lock()


def copied(location: str) -> str:
    """A path of this machine with what lies there: itself, or a copy of an object or of a folder of them.

    Raises
    ------
    InputNotFoundError : nothing is there.
    InputError : it is a folder of something else than a network.
    DiskFullError : there is no room for temporary files.
    """
    if not is_url(location):
        return location
    place = place_of(location)
    assert isinstance(place, ObjectPath)
    found = _objects(place)
    with _lock:
        known = _copies.get(location)
        if known is None or known[0] != found:
            known = _copies[location] = found, _copy(place, found)
    return str(known[1])


def _objects(place: ObjectPath) -> dict[str, Stamp]:
    """What is to be copied, by its name below the place; "" is the place itself."""
    single = place.stamp()
    if single is not None:
        return {"": single}
    if not place.is_read_only and not any((place / name).is_file() for name in HEADERS):
        exists = place.exists()
        kind = InputError if exists else InputNotFoundError
        raise kind(
            f"{place} " + (f"holds none of {', '.join(HEADERS)}" if exists else "does not exist"),
            "Give the folder of a network, or a file of one",
        )
    return {str(path.relative_to(place)): stamp for path, stamp in place.walk()}


def _copy(place: ObjectPath, found: Mapping[str, Stamp]) -> Path:
    try:
        folder = Path(tempfile.mkdtemp(prefix="chunkflow-"))
    except OSError as error:
        raise no_temporary_files(error) from error
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    root = folder / place.name
    at_once(lambda name: _copy_one(place / name if name else place, _inside(root, name)), sorted(found))
    return root


def _inside(root: Path, name: str) -> Path:
    """Where an object goes; keys of a store may hold anything."""
    parts = PurePosixPath(name).parts
    if ".." in parts or PurePosixPath(name).is_absolute():
        raise InputError(f"an object is called {name!r}", "Rename it: it would be written outside of its copy")
    return root.joinpath(*parts)


def _copy_one(source: ObjectPath, target: Path) -> None:
    content = source.read_bytes()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    except OSError as error:
        raise no_temporary_files(error) from error
