"""The files that make a network: which they are, their digest, and what is refused before anything is read.

    FOLDER/model.yaml + FOLDER/weights.SUFFIX         what the network is, beside its weights or its program
    FOLDER/rdf.yaml (bioimageio.yaml) and more        a package of the BioImage Model Zoo; the same as one .zip
    .safetensors  .pt  .pth  .pt2  .torchscript       one file
    .onnx and the files that it names                 weights beyond 2 GB lie beside it

Reads bytes only: no torch, nothing unpickled. Files are checked to lie where they may lie and to fit into the memory
that is free; none is opened that a network names outside its own folder.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from time import time
from typing import Any, NoReturn

import psutil
import yaml

from chunkflow.errors import ModelError
from chunkflow.models.onnx_files import external_files

HEADER = "model.yaml"
SUFFIXES = (".safetensors", ".pt", ".pth", ".pt2", ".torchscript", ".onnx")
WEIGHTS = tuple(f"weights{suffix}" for suffix in (".safetensors", ".pt", ".pt2", ".torchscript", ".onnx"))
DESCRIPTIONS = ("rdf.yaml", "bioimageio.yaml")
KINDS = (
    f"Give a folder with {HEADER} and weights.safetensors, a package of the BioImage Model Zoo (folder or .zip), or a "
    f"file: {', '.join(SUFFIXES)}"
)

SETTLED_SECONDS = 2.0
"""Since its last change, after which a file's digest is kept as long as its size and times stay."""

PACKAGE_NAME = re.compile(r"[A-Za-z0-9_+\- ()]{5,128}")
"""What the BioImage Model Zoo calls a network."""

MOST_TEXT = 2**20
MOST_NODES = 100_000
# A member of an archive that is larger than the first and packed better than the second is no array of a network.
BOMB_BYTES, BOMB_RATIO = 64 * 2**20, 100


def is_network(path: str | Path) -> bool:
    """Whether this looks like one of the forms above; nothing is read."""
    path = Path(path)
    if path.is_dir():
        return any((path / name).is_file() for name in (HEADER, *DESCRIPTIONS))
    return path.is_file() and path.suffix.lower() in (*SUFFIXES, ".zip")


def has_description(path: Path) -> bool:
    """Whether there is a package of the BioImage Model Zoo, be it beside weights that are read by their own header."""
    return is_package(path) or any((path / name).is_file() for name in DESCRIPTIONS)


def is_package(path: Path) -> bool:
    """Whether this is a package of the BioImage Model Zoo: by its name and place alone."""
    if path.is_dir():
        return not (path / HEADER).is_file() and any((path / name).is_file() for name in DESCRIPTIONS)
    return path.suffix.lower() == ".zip"


def digest_of(path: str | Path) -> str:
    """SHA-256 (hex) of the bytes that make the network: of one file, or of names and contents of several.

    Raises
    ------
    ModelError : the path is none of the forms above, or names files that are not there.
    """
    path = Path(path)
    files = files_of(path)
    if path.is_file() and len(files) == 1:
        return sha256(path)
    root = path if path.is_dir() else path.parent
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(root).as_posix()} {sha256(file)}\n".encode())
    return total.hexdigest()


def sha256(file: Path) -> str:
    """SHA-256 (hex) of a file."""
    status = file.stat()
    changed = max(status.st_mtime, status.st_ctime)
    if time() - changed < SETTLED_SECONDS:  # it could change again within the same tick of its times
        return _read_digest(file)
    return _digest_of_version(file, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _read_digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@lru_cache(maxsize=64)
def _digest_of_version(file: Path, *version: int) -> str:
    """The digest of a file as it was with these facts: a plan that tries blocks asks for it again and again."""
    return _read_digest(file)


def files_of(path: Path) -> list[Path]:
    """The files that make the network at `path`, the one that says what it is first."""
    if path.is_file():
        if path.suffix.lower() not in (*SUFFIXES, ".zip"):
            raise ModelError(f"{path} is not a network file", KINDS)
        return [path, *_beside(path)]
    if not path.is_dir():
        raise ModelError(f"there is no network at {path}", KINDS)
    if is_package(path):
        package = Package(path)
        return [path / package.description_name, *package.weights_files()]
    weights = weights_file(path)
    return [path / HEADER, weights, *_beside(weights)]


def weights_file(path: Path) -> Path:
    """The weights: the file itself, or what lies beside a header."""
    if path.is_file():
        return path
    found = [file for name in WEIGHTS if (file := path / name).is_file()]
    if not found or not (path / HEADER).is_file():
        raise ModelError(f"the folder {path} does not hold {HEADER} and one of {', '.join(WEIGHTS)}", KINDS)
    return found[0]


def check_memory(path: Path, size: int | None = None) -> None:
    """Refuse what cannot be held: its bytes against the memory that is free.

    Raises
    ------
    ModelError : with both figures.
    """
    size = sum(file.stat().st_size for file in files_of(path)) if size is None else size
    free = psutil.virtual_memory().available
    if size > free:
        raise ModelError(
            f"the network {path} holds {size / 2**30:.3g} GiB, of which memory has {free / 2**30:.3g} GiB free",
            "Use a machine with more memory, or a smaller network",
        )


def check_archive(path: Path, *, packed: int = 0) -> None:
    """Refuse a torch archive whose compressed parts unpack to more than `packed` bytes; arrays are never compressed.

    A file that is no zip archive passes: what it is, its reader says.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        parts = [info for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
    if sum(info.file_size for info in parts) > packed:
        raise ModelError(f"{path} unpacks to more than it holds", "Write it again with torch")


def read_yaml(content: bytes, path: Path) -> Mapping[str, Any]:
    """A header: plain values of bounded size. Texts that name Python objects are refused, and so are texts that grow
    when they are read (anchors used many times).

    Raises
    ------
    ModelError : it is none.
    """
    if len(content) > MOST_TEXT:
        raise ModelError(f"{path} is longer than {MOST_TEXT} bytes", "Give a file that describes a network")
    try:
        values = yaml.safe_load(content.decode("utf-8"))
        count = sum(1 for _ in _nodes(values))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as YAML: {first_line(error)}", "Write plain values only") from error
    if not isinstance(values, Mapping) or count > MOST_NODES:
        raise ModelError(f"{path} is no description of a network", "Give a map of names and values")
    return values


def first_line(error: Exception) -> str:
    """The first sentence of somebody else's error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class Package:
    """A folder or zip of the BioImage Model Zoo: reads what lies in it and nothing else, all of it in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        names = [name for name in DESCRIPTIONS if self._size(name) is not None]
        if not names:
            raise ModelError(f"{path} holds no {' or '.join(DESCRIPTIONS)}", KINDS)
        self.description_name = names[0]
        self.description = read_yaml(self.read(names[0], most=MOST_TEXT), path / names[0])

    def read(self, name: str, *, digest: object = None, most: int | None = None) -> bytes:
        """The bytes of a file of the package, given as the description names it.

        Raises
        ------
        ModelError : it is elsewhere, not there, too large, packed beyond reason, damaged, or of another `digest`.
        """
        size = self._size(name)
        if size is None:
            raise ModelError(f"the package {self.path} names {name}, which is not in it", "Get the package again")
        if most is not None and size > most:
            raise ModelError(f"{name} of {self.path} is longer than {most} bytes", "Get the package again")
        check_memory(self.path, size)
        try:
            content = self._content(name)
        except Exception as error:  # every kind of packing raises a kind of its own
            self._damaged(error)
        if digest is not None and hashlib.sha256(content).hexdigest() != str(digest).lower():
            raise ModelError(f"{name} of {self.path} is not the file it should be", "Get the package again")
        return content

    def weights_files(self) -> list[Path]:
        """Every file of a folder that a weights entry names; those that were left elsewhere are not there."""
        names = [name for entry in self.entries().values() for name in _sources(entry)]
        return [self.path / name for name in names if self.has(name)]

    def has(self, name: str) -> bool:
        """Whether a file that the description names is in the package.

        Raises
        ------
        ModelError : the name leads out of it.
        """
        return "://" not in name and self._size(name) is not None

    def entries(self) -> Mapping[str, Mapping[str, Any]]:
        """Weights entries by their format."""
        weights = self.description.get("weights")
        plain = isinstance(weights, Mapping) and all(isinstance(entry, Mapping) for entry in weights.values())
        if not plain:
            raise ModelError(f"{self.path / self.description_name} names no weights", "Get the package again")
        return weights  # type: ignore[return-value]

    def _check_inside(self, name: str) -> None:
        """Refuse what is no place within the package."""
        parts = PurePosixPath(name)
        if "://" in name:
            raise ModelError(
                f"the package {self.path} leaves {name} on the network", "Download the package whole, with its files"
            )
        good = not parts.is_absolute() and ".." not in parts.parts and not set(name) & set("\\:\0") and name != ""
        if good and self.path.is_dir():
            good = (self.path / name).resolve().is_relative_to(self.path.resolve())
        if not good:
            raise ModelError(f"the package {self.path} names {name!r}, outside of it", "Get it from who made it")

    def _size(self, name: str) -> int | None:
        self._check_inside(name)
        if self.path.is_dir():
            file = self.path / name
            return file.stat().st_size if file.is_file() else None
        try:
            with zipfile.ZipFile(self.path) as archive:
                info = archive.NameToInfo.get(PurePosixPath(name).as_posix())
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            self._damaged(error)
        if info is not None and info.file_size > BOMB_BYTES and info.file_size > BOMB_RATIO * info.compress_size:
            raise ModelError(f"{name} of {self.path} unpacks to {info.file_size} bytes", "Get it from who made it")
        return None if info is None else info.file_size

    def _content(self, name: str) -> bytes:
        if self.path.is_dir():
            return (self.path / name).read_bytes()
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(PurePosixPath(name).as_posix())

    def _damaged(self, error: Exception) -> NoReturn:
        raise ModelError(f"the package {self.path} is damaged: {first_line(error)}", "Get it again") from error


def _beside(file: Path) -> list[Path]:
    """The files that an .onnx names, within its folder."""
    if file.suffix.lower() != ".onnx":
        return []
    found = []
    for name in external_files(file):
        place = file.parent / name
        if not place.resolve().is_relative_to(file.parent.resolve()) or PurePosixPath(name).is_absolute():
            raise ModelError(f"{file} names weights outside its folder: {name!r}", "Get it from who made it")
        if not place.is_file():
            raise ModelError(f"{file} names weights in {name!r}, which are not there", "Put them beside it")
        found.append(place)
    return found


def _sources(entry: Mapping[str, Any]) -> Iterator[str]:
    """The files that a weights entry names, in the words of either version of the format."""
    external = entry.get("external_data")
    for value in (entry, external):
        if isinstance(value, Mapping) and isinstance(value.get("source"), str):
            yield value["source"]


def _nodes(value: Any) -> Iterator[None]:
    """One for every value in nested ones, as often as it is met, up to the most that is allowed."""
    pending, count = [value], 0
    while pending and count <= MOST_NODES:
        item = pending.pop()
        count += 1
        yield None
        if isinstance(item, Mapping):
            pending += item.values()
        elif isinstance(item, list | tuple):
            pending += item
