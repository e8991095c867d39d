"""What a batch is made of: files, folders, patterns and stores of many images become a list of images with names.

    data/**/*.tif       every match                             name: the path below the part without wildcards
    data/               every image below it, hidden ones and   name: the path below the folder
                        what lies inside an image left out
    a.tif b/c.ome.zarr  as they are                             name: the path below what they share
    plate.ome.zarr      every field of every well; every        name: well and field, number of the image
                        image of a bioformats2raw store

Endings are left off names where that leaves them different, and no result lies inside another. The names are the
folders of the results, so a batch of a folder or of a pattern keeps its names when files are added.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from chunkflow.analysis.samples import Sample, without_ending
from chunkflow.errors import ChunkflowError, InputError, InputNotFoundError, UsageError
from chunkflow.storage import bioio_source, hdf5, n5, tiff_stack
from chunkflow.storage.hierarchy import images_below, zarr_kind
from chunkflow.storage.importing import open_source
from chunkflow.storage.omezarr import image_facts
from chunkflow.storage.stores import is_url
from chunkflow.storage.tiff_image import ome_image_names
from chunkflow.storage.volume import local_path

SUFFIXES = (*tiff_stack.SUFFIXES, *hdf5.SUFFIXES, *bioio_source.READERS)
"""Files that a folder is searched for; any other can be named."""
RESERVED = ("run", "comparison", "summary", "index")
"""First parts of names that a batch uses itself."""
NAMED_ABSENT = 20
"""Inputs that are not there and are named."""
LONGEST_NAME_BYTES = 160
"""Of a part of a name; file systems take 255, of which endings and names of unfinished files take some 60."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image, at one time point, of a batch.

    name : folder of its result below the output, with slashes
    path : absolute, of a file or of an OME-Zarr image
    file : the path as people know it, below what the batch was given
    time : the time point; None is what the pipeline says
    dataset : number of the image in a file that holds several
    sample : condition and replicate
    """

    name: str
    path: str
    file: str
    time: int | None = None
    dataset: str | None = None
    sample: Sample = field(default_factory=Sample)

    @property
    def is_file(self) -> bool:
        """Whether it is imported for its run."""
        return not Path(self.path).is_dir()


def is_pattern(text: str) -> bool:
    """Whether a source is a pattern rather than the path of something."""
    return glob.has_magic(text) and not os.path.exists(text)


def is_batch(sources: Sequence[str | Path], *, time: int | Literal["all"] | None = None) -> bool:
    """Whether sources are several images: two of them, a pattern, a folder that is no image, a plate, every time point.

    A pattern is a batch also where it fits one file, so that the result lies where it will with more of them.
    """
    if len(sources) != 1 or time == "all":
        return bool(sources)
    (source,) = sources
    if is_pattern(str(source)):
        return True
    if is_url(source):  # one image of a store: whether it is several would take listing it
        return False
    path = local_path(source)
    if path.is_file():
        return len(_inner_names(path)) > 1
    return path.is_dir() and (zarr_kind(path) is None or images_below(path) != [""])


def check_single(source: str | Path, what: str) -> None:
    """Refuse a folder or a pattern of images where one image is looked at; stores of several say that themselves.

    Raises
    ------
    InputNotFoundError, UsageError : it is nothing, or no single image.
    """
    check_there(source)
    if not is_batch([source]) or zarr_kind(local_path(source)) is not None:
        return
    first = found_items([source], output=Path(source) / "run")[0]
    if first.dataset is not None:
        raise UsageError(
            f"{source} holds several images, and {what} looks at one",
            f"Write one as a file of its own: chunkflow import {source} --image {first.dataset} -o IMAGE.ome.zarr",
        )
    raise UsageError(
        f"{source} holds several images, and {what} looks at one", f"Name one of them, such as {first.path}"
    )


def found_items(sources: Sequence[str | Path], *, output: Path, every_time: bool = False) -> list[Item]:
    """The images of a batch, in natural order of their names.

    Parameters
    ----------
    output : what lies in it is no input.
    every_time : one item for each time point of an image that has several.

    Raises
    ------
    InputNotFoundError : paths or patterns are nothing; all of them are named.
    UsageError : there is no image, or two results could not lie beside each other.
    """
    base, paths = _listed(sources, output.resolve())
    items = [
        Item("", str(image), PurePosixPath(os.path.relpath(image, base), *inner).as_posix(), dataset=number)
        for path in paths
        for image in _images_of(path)
        for number, inner in _inner_images(image)
    ]
    if not items:
        if any(output.resolve() in (path, *path.parents) for path in (Path(source).resolve() for source in sources)):
            raise UsageError(f"the input {sources[0]} lies in the output {output}", "Choose another output")
        raise UsageError(
            f"{', '.join(map(str, sources[:3]))} holds no image",
            f"Name OME-Zarr images, or {', '.join(SUFFIXES)} files",
        )
    items = _named(items)
    if every_time:
        items = [one for item in items for one in _times_of(item)]
    return sorted(items, key=lambda item: natural(item.name))


def natural(name: str) -> list[tuple[int, str]]:
    """Order that puts t2 before t10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _listed(sources: Sequence[str | Path], output: Path) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and every path once."""
    bases, paths = [], []
    absent: list[InputNotFoundError] = []
    for source in sources:
        try:
            base, found = _of_pattern(str(source)) if is_pattern(str(source)) else _of_path(local_path(source))
        except InputNotFoundError as error:
            absent.append(error)
            continue
        bases.append(base)
        paths += found
    if absent:
        raise _all_absent(absent, len(sources))
    resolved = dict.fromkeys(path for path in (Path(os.path.abspath(path)) for path in paths))
    base = Path(os.path.commonpath([os.path.abspath(base) for base in bases])) if bases else Path()
    return base, [path for path in resolved if output not in (path.resolve(), *path.resolve().parents)]


def _all_absent(absent: Sequence[InputNotFoundError], count: int) -> InputNotFoundError:
    """All that is not there as one error: a list with gaps is a mistake, told before a night's work."""
    if len(absent) == 1:
        return absent[0]
    told = "; ".join(error.what for error in absent[:NAMED_ABSENT])
    rest = f"; and {len(absent) - NAMED_ABSENT} more" if len(absent) > NAMED_ABSENT else ""
    return InputNotFoundError(f"{len(absent)} of {count} inputs are not there: {told}{rest}", "Check the paths")


def _of_pattern(pattern: str) -> tuple[Path, list[Path]]:
    """Matches of a pattern that are images or files of a kind that is searched for."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    found = [Path(match) for match in glob.glob(pattern, recursive=True)]
    images = [path for path in found if _is_image(path) and not _is_inside_image(path, Path(*parts[:fixed]))]
    if not images:
        raise InputNotFoundError(f"no image fits {pattern}", "Check the pattern; ** stands for folders of any depth")
    return Path(*parts[:fixed]), images


def check_there(source: str | Path) -> None:
    """Refuse a path where nothing is.

    Raises
    ------
    InputNotFoundError : there is no file or folder.
    InputError : it means an image inside a file, which only an import reads.
    """
    if not is_url(source) and not local_path(source).exists():
        raise _absent(local_path(source))


def _absent(path: Path) -> InputError:
    file, inner = hdf5.split_dataset(str(path))
    if inner is not None and Path(file).exists():
        return InputError(
            f"{path} is an image inside a file, which only an import reads",
            f"Import it: chunkflow import {path} IMAGE.ome.zarr",
        )
    return InputNotFoundError(f"{path} does not exist", "Check the path")


def _of_path(path: Path) -> tuple[Path, list[Path]]:
    if not path.exists():
        raise _absent(path)
    if path.is_file():
        return path.parent, [path]
    if n5.is_n5(path):
        raise InputError(
            f"{path} is an N5 container, which only an import reads",
            f"Import an image of it: chunkflow import {path} IMAGE.ome.zarr",
        )
    if zarr_kind(path) is None:
        return path, _searched(path)
    return (path.parent if images_below(path) == [""] else path), [path]


def _is_image(path: Path) -> bool:
    if path.is_dir():
        return zarr_kind(path) == "group"
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _is_inside_image(path: Path, root: Path) -> bool:
    """Whether a folder between the root and the path is a zarr group: its parts are no images of their own."""
    between = [parent for parent in path.parents if root in (parent, *parent.parents) and parent != root]
    return any(zarr_kind(parent) is not None for parent in between)


def _searched(folder: Path) -> list[Path]:
    """Images below a folder; an OME-Zarr image is not looked into."""
    found: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = [Path(root, name) for name in folders if zarr_kind(Path(root, name)) is not None]
        folders[:] = [name for name in folders if Path(root, name) not in inside]
        found += [path for path in inside if zarr_kind(path) == "group"]
        found += [Path(root, name) for name in names if _is_image(Path(root, name))]
    return found


def _images_of(path: Path) -> list[Path]:
    """The path, or the images of a store of many."""
    return [path / name if name else path for name in images_below(path)] if path.is_dir() else [path]


def _inner_images(path: Path) -> list[tuple[str | None, tuple[str, ...]]]:
    """Number and name of each image of a file that holds several; of any other, neither."""
    names = _inner_names(path) if path.is_file() else [""]
    if len(names) == 1:
        return [(None, ())]
    plain = [re.sub(r"[^\w.+-]+", "_", name).strip("_.") or f"image_{number}" for number, name in enumerate(names)]
    counts = Counter(name.lower() for name in plain)
    return [
        (str(number), (name if counts[name.lower()] == 1 else f"{name}_{number}",)) for number, name in enumerate(plain)
    ]


def _inner_names(path: Path) -> list[str]:
    """Names of the images of an OME-TIFF; a single one where it cannot be read, so that its run says why."""
    if path.suffix.lower() not in tiff_stack.SUFFIXES:
        return [""]
    try:
        return ome_image_names(path)
    except (ChunkflowError, OSError):
        return [""]


def _named(items: Sequence[Item]) -> list[Item]:
    """Items with names: endings are kept where names would meet, or one result would lie inside another."""
    bare = [_allowed(_bare(item.file)) for item in items]
    counts = Counter(name.lower() for name in bare)  # some file systems take A for a
    folders = {str(parent).lower() for name in bare for parent in PurePosixPath(name).parents}
    names = [
        _allowed(item.file) if counts[name.lower()] > 1 or name.lower() in folders else name
        for item, name in zip(items, bare, strict=True)
    ]
    again = Counter(name.lower() for name in names)
    for item, name in zip(items, names, strict=True):
        if again[name.lower()] > 1:
            raise UsageError(f"two images would have the result {name}, one of them {item.path}", "Rename one of them")
    return [replace(item, name=name) for item, name in zip(items, names, strict=True)]


def _bare(file: str) -> str:
    *folders, last = PurePosixPath(file).parts
    holding = (".zarr", *tiff_stack.SUFFIXES)
    stores = [without_ending(part) if part.lower().endswith(holding) else part for part in folders]
    return "/".join([*stores, without_ending(last) or last])


def _allowed(name: str) -> str:
    """A name that stays below the output and clear of what the batch writes there."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("..", ".", "/")]
    if parts and parts[0].split(".")[0].lower() in RESERVED:
        parts[0] += "_"
    return "/".join(map(_shortened, parts)) or "image"


def _shortened(name: str) -> str:
    """A name that file systems take with an ending behind it: the first of its letters, and a digest of all."""
    content = name.encode(errors="surrogateescape")
    if len(content) <= LONGEST_NAME_BYTES:
        return name
    begin = content[: LONGEST_NAME_BYTES - 9].decode(errors="ignore")
    return f"{begin}-{hashlib.blake2b(content, digest_size=4).hexdigest()}"


def _times_of(item: Item) -> list[Item]:
    """The item at each of its time points; as it is where it cannot be read, so that its run says why."""
    try:
        if item.is_file:
            image, _ = open_source(item.path, dataset=item.dataset)
            count = dict(zip(image.axes, image.shape, strict=True)).get("t", 1)
        else:
            count = image_facts(item.path).times
    except (ChunkflowError, OSError):
        return [item]
    if count == 1:
        return [replace(item, time=0)]
    width = len(str(count - 1))
    return [replace(item, name=f"{item.name}/t{number:0{width}d}", time=number) for number in range(count)]
