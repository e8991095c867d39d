"""Where something lies: a folder of this machine, or a prefix of an object store. Both have the same verbs.

    data/in.ome.zarr                   pathlib.Path, as fast as it is
    s3://bucket/in.ome.zarr            ObjectPath: S3, and stores that speak its protocol (MinIO, Ceph)
    gs://bucket/in.ome.zarr            ObjectPath: Google Cloud Storage
    https://host/in.ome.zarr           ObjectPath, to read only, and without lists

An ObjectPath has the methods of `pathlib.Path` that are used here, so that one code path serves both; what stores do
differently (no rename, whole objects, conditional puts) has methods of its own, and `storage/files.py` builds on both.
It is a name, pickles as one, and holds no credentials: each process finds those in its own environment.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias
from urllib.parse import unquote

import google_crc32c
import obstore

from chunkflow.errors import InputError, UsageError
from chunkflow.storage.connections import Stamp, answer, at_once, got, opened, page, stamp_of
from chunkflow.storage.retry import BeyondEnd, Conflict, Whole, count, request

_URL = re.compile(r"^([a-z][a-z0-9+.-]*)://(.*)$", re.IGNORECASE | re.DOTALL)
_SCHEMES = ("s3", "gs", "http", "https")
_PAGE = 1000  # objects of one answer to a list, in S3 and GCS
_REMEMBERED = 4096  # checksums of puts
_TRIES = 5  # of a conditional put that is refused although nothing changed
_SINGLE_PUT = 64 * 2**20  # bytes; above it an object is sent in parts, which still appear together or not at all


@dataclass(frozen=True, slots=True)
class ObjectPath:
    """An object of a store, or the prefix that objects begin with. root : scheme://bucket; key : the rest"""

    root: str
    key: str

    def __str__(self) -> str:
        return f"{self.root}/{self.key}" if self.key else self.root

    def __truediv__(self, name: str | PurePosixPath) -> ObjectPath:
        return ObjectPath(self.root, str(PurePosixPath(self.key, name)) if str(name) else self.key)

    @property
    def name(self) -> str:
        """Last part of the key."""
        return PurePosixPath(self.key).name

    @property
    def parts(self) -> tuple[str, ...]:
        """The bucket and the parts of the key."""
        return (self.root, *PurePosixPath(self.key).parts)

    @property
    def suffix(self) -> str:
        """Ending of the name."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> ObjectPath:
        """The prefix around it; the bucket's is itself."""
        above = str(PurePosixPath(self.key).parent)
        return ObjectPath(self.root, "" if above == "." else above)

    @property
    def parents(self) -> tuple[ObjectPath, ...]:
        """Prefixes around it, nearest first."""
        return tuple(ObjectPath(self.root, "" if str(p) == "." else str(p)) for p in PurePosixPath(self.key).parents)

    @property
    def is_read_only(self) -> bool:
        """Whether the store can neither be written nor listed: web servers."""
        return self.root.startswith("http")

    def with_name(self, name: str) -> ObjectPath:
        """Another object beside this one."""
        return self.parent / name

    def relative_to(self, above: ObjectPath | Path) -> PurePosixPath:
        """The key below `above`."""
        if not isinstance(above, ObjectPath) or above.root != self.root:
            raise ValueError(f"{self} does not lie in {above}")
        return PurePosixPath(self.key).relative_to(above.key)

    def resolve(self) -> ObjectPath:
        """Itself: a URL is absolute, and stores have no links."""
        return self

    def absolute(self) -> ObjectPath:
        """Itself."""
        return self

    def is_symlink(self) -> bool:
        """Stores have no links."""
        return False

    def is_file(self) -> bool:
        """Whether there is such an object."""
        return self.size() is not None

    def is_dir(self) -> bool:
        """Whether objects begin with this prefix; never of a web server, which has no lists."""
        listed = _listed(self)
        if listed is not None:
            return any(_is_below(name, str(self)) for name in listed)
        return not self.is_read_only and next(self.walk(at_most=1), None) is not None

    def exists(self) -> bool:
        """Whether there is such an object or prefix."""
        return self.is_file() or self.is_dir()

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: prefixes are there when an object is."""

    def size(self) -> int | None:
        """Bytes, None where there is no such object."""
        found = self.stamp()
        return None if found is None else found.size

    def stamp(self) -> Stamp | None:
        """What the store knows of the object, None where there is none."""
        listed = _listed(self)
        if listed is not None:
            return listed.get(str(self))
        try:
            return stamp_of(request("head", str(self), lambda: obstore.head(self._store, self.key)))
        except FileNotFoundError:
            return None

    def read_bytes(self) -> bytes:
        """The whole object.

        Raises
        ------
        FileNotFoundError : there is none.
        """
        return self.read_stamped()[0]

    def read_text(self, encoding: str = "utf-8") -> str:
        """The whole object as text."""
        return self.read_bytes().decode(encoding)

    def read_stamped(self) -> tuple[bytes, Stamp]:
        """The whole object, and what the store knows of it."""
        return got(request("get", str(self), lambda: answer(self._store, self.key, {})))

    def read_end(self, size: int) -> tuple[bytes, int]:
        """The last `size` bytes, or all where there are fewer, and the length of the object."""
        try:
            content, stamp = got(
                request("get", str(self), lambda: answer(self._store, self.key, {"range": {"suffix": size}}))
            )
        except (BeyondEnd, Whole):  # of an empty object, or a server without ranges
            content = self.read_bytes()
            return content[-size:], len(content)
        return content, stamp.size

    def read_range(self, start: int, length: int) -> bytes:
        """Bytes from `start`; fewer where the object ends before."""
        try:
            part = {"range": (start, start + length)}
            return got(request("get", str(self), lambda: answer(self._store, self.key, part)))[0]
        except BeyondEnd:
            return b""
        except Whole:
            return self.read_bytes()[start : start + length]

    def write_bytes(self, content: bytes) -> None:
        """Put a whole object in place of whatever is there."""
        self._check_writable()
        in_parts = len(content) > _SINGLE_PUT
        request("put", str(self), lambda: obstore.put(self._store, self.key, bytes(content), use_multipart=in_parts))
        count(bytes_written=len(content))
        _remember(self, google_crc32c.value(content))

    def take_crc(self) -> int | None:
        """CRC-32C of the object as this process put it last, told once, else as it is there; None without one."""
        known = _put_crcs.pop(self, None)
        if known is not None:
            return known
        try:
            return int(google_crc32c.value(self.read_bytes()))
        except FileNotFoundError:
            return None

    def upload(self, file: Path) -> None:
        """Put a local file; in parts where it is large."""
        self._check_writable()
        size = file.stat().st_size
        request("put", str(self), lambda: obstore.put(self._store, self.key, file, use_multipart=size > _SINGLE_PUT))
        count(bytes_written=size)

    def create(self, content: bytes) -> None:
        """Put an object that must not be there yet; `content` must be like nobody else's.

        Raises
        ------
        Conflict : it is there with other content.
        """
        for _ in range(_TRIES):
            try:
                return self._put_if("create", content)
            except Conflict:
                with suppress(FileNotFoundError):  # a conflict with somebody who then failed: try again
                    if self.read_bytes() == content:
                        return None  # an earlier attempt of ours, whose answer was lost
                    raise
        raise Conflict(str(self))

    def replace_if(self, content: bytes, known: Stamp) -> Stamp:
        """Put an object in place of the one known; `content` must be like nobody else's. Returns its stamp.

        Raises
        ------
        Conflict : another one is there, or none.
        """
        mode = {"e_tag": known.tag, **({"version": known.version} if known.version else {})}
        for _ in range(_TRIES):
            with suppress(Conflict, FileNotFoundError):
                self._put_if(mode, content)
            try:
                there, stamp = self.read_stamped()
            except FileNotFoundError:
                break
            if there == content:
                return stamp
            if stamp != known:
                break
        raise Conflict(str(self))

    def _put_if(self, mode: Any, content: bytes) -> None:
        self._check_writable()
        request("put", str(self), lambda: obstore.put(self._store, self.key, content, mode=mode, use_multipart=False))
        count(bytes_written=len(content))

    def copy_to(self, target: ObjectPath) -> None:
        """Copy inside the store, in place of whatever is there."""
        if target.root != self.root:
            raise UsageError(f"{self} cannot be copied to another bucket ({target})", "Keep an output in one bucket")
        request("copy", str(self), lambda: obstore.copy(self._store, self.key, target.key))

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object; one that is not there is deleted already."""
        delete([self])

    def walk(self, *, at_most: int | None = None) -> Iterator[tuple[ObjectPath, Stamp]]:
        """Objects below this prefix, by key, a page of a thousand at a time."""
        if self.is_read_only:
            raise InputError(f"{self} cannot be listed: web servers have no lists", "Name the image itself")
        last, found = "", 0
        while found % _PAGE == 0:
            metas = request("list", str(self), partial(page, self._store, self.key, last, at_most or _PAGE))
            for meta in metas:
                yield ObjectPath(self.root, meta["path"]), stamp_of(meta)
                found += 1
                if found == at_most:
                    return
            if not metas:
                return
            last = metas[-1]["path"]

    def iterdir(self) -> Iterator[ObjectPath]:
        """Objects and prefixes one level below."""
        if self.is_read_only:
            raise InputError(f"{self} cannot be listed: web servers have no lists", "Name the image itself")
        prefix = self.key or None
        found = request("list", str(self), lambda: obstore.list_with_delimiter(self._store, prefix))
        for path in (*found["common_prefixes"], *(meta["path"] for meta in found["objects"])):
            yield ObjectPath(self.root, path)

    def _check_writable(self) -> None:
        if self.is_read_only:
            raise UsageError(
                f"{self} cannot be written: web servers are read only", "Write to a folder, s3:// or gs://"
            )

    @property
    def _store(self) -> Any:
        return opened(self.root)


Place: TypeAlias = Path | ObjectPath


def is_url(location: str | Path | ObjectPath) -> bool:
    """Whether a location is not a path of this machine."""
    return isinstance(location, ObjectPath) or (isinstance(location, str) and _URL.match(location) is not None)


def place_of(location: str | Path | ObjectPath) -> Place:
    """The folder or the object path that a location names.

    Raises
    ------
    InputError : of a URL whose kind is not known.
    UsageError : of a URL with a password or a signature in it, which would end up in plans and journals.
    """
    if isinstance(location, Path | ObjectPath):
        return location
    text = location.removeprefix("file://")
    match = _URL.match(text)
    if match is None:
        return Path(text)
    scheme, rest = match[1].lower(), match[2]
    host, _, key = rest.partition("/")
    shown = f"{scheme}://{host.rpartition('@')[2]}/..."
    if scheme not in _SCHEMES:
        raise InputError(f"{shown} is of a kind that cannot be opened", "Use s3://, gs://, https:// or a local folder")
    if not host:
        raise InputError(f"{scheme}:// names no bucket or host", "Write it as s3://BUCKET/FOLDER")
    if "@" in host or (scheme.startswith("http") and ("?" in key or "#" in key)):
        raise UsageError(
            f"{shown} has a password or a query in it, which would be stored with the result",
            "Give the plain address, and credentials in the environment",
        )
    parts = [part for part in (unquote(key) if scheme.startswith("http") else key).split("/") if part not in ("", ".")]
    if ".." in parts:
        raise UsageError(f"{shown} has '..' in its path, which stores do not know", "Write the path without it")
    return ObjectPath(f"{scheme}://{host}", "/".join(parts))


def delete(objects: Iterable[ObjectPath]) -> None:
    """Delete objects of one bucket, a thousand a request; those that are not there are deleted already."""
    waiting = list(objects)
    batches = [waiting[start : start + 1000] for start in range(0, len(waiting), 1000)]
    at_once(_delete_batch, batches)


def _delete_batch(batch: list[ObjectPath]) -> None:
    store = batch[0]._store
    keys = [path.key for path in batch]
    if batch[0].root.startswith("s3:"):  # one request, silent about what is not there
        request("delete", str(batch[0]), lambda: obstore.delete(store, keys))
        return
    for path in batch:
        batch[0]._check_writable()
        with suppress(FileNotFoundError):
            request("delete", str(path), partial(obstore.delete, store, path.key))


@contextmanager
def listed_once(folder: Place) -> Iterator[None]:
    """Answer the sizes of all objects below `folder` from one listing, for whoever only looks.

    A listing has a thousand objects a request, where asking for each takes a request. It takes about 500 bytes an
    object. Does nothing for local folders.
    """
    if not isinstance(folder, ObjectPath) or folder.is_read_only:
        yield
        return
    token = _LISTED.set((folder, {str(path): stamp for path, stamp in folder.walk()}))
    try:
        yield
    finally:
        _LISTED.reset(token)


_LISTED: ContextVar[tuple[ObjectPath, Mapping[str, Stamp]] | None] = ContextVar("listed", default=None)


def sizes_of(paths: Sequence[ObjectPath]) -> list[int | None]:
    """Bytes of each object, None where there is none."""
    if all(_listed(path) is not None for path in paths):
        return [path.size() for path in paths]
    return at_once(ObjectPath.size, paths)


def listed_below(folder: ObjectPath) -> list[tuple[PurePosixPath, Stamp]]:
    """Objects below a prefix by their names there, from the listing of `listed_once` where there is one."""
    known = _listed(folder)
    if known is None:
        return [(path.relative_to(folder), stamp) for path, stamp in folder.walk()]
    start = len(str(folder)) + 1
    return [(PurePosixPath(name[start:]), stamp) for name, stamp in known.items() if _is_below(name, str(folder))]


def _listed(path: ObjectPath) -> Mapping[str, Stamp] | None:
    known = _LISTED.get()
    if known is None or not (path == known[0] or _is_below(str(path), str(known[0]))):
        return None
    return known[1]


def _is_below(name: str, folder: str) -> bool:
    return name.startswith(folder) and name[len(folder) : len(folder) + 1] == "/"


_put_crcs: OrderedDict[ObjectPath, int] = OrderedDict()


def _remember(path: ObjectPath, crc: int) -> None:
    """So that whoever put an object need not read it again to know its bytes."""
    _put_crcs[path] = crc
    if len(_put_crcs) > _REMEMBERED:
        with suppress(KeyError):  # another thread was first
            _put_crcs.popitem(last=False)
