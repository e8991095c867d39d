"""An array of an object store, as zarr asks for it: objects put whole, ranges read, requests tried again if need be.

zarr's own adapter for such stores neither counts requests nor can be told how long to try. An absent object is None
here, which zarr reads as fill; every other answer is an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from chunkflow.storage.retry import Conflict
from chunkflow.storage.stores import ObjectPath


class ObjectsStore(Store):
    """The objects below a prefix."""

    supports_writes = True
    supports_deletes = True
    supports_listing = True

    def __init__(self, folder: ObjectPath, *, read_only: bool) -> None:
        super().__init__(read_only=read_only)
        self.folder = folder

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectsStore) and (self.folder, self.read_only) == (other.folder, other.read_only)

    def __hash__(self) -> int:
        return hash((self.folder, self.read_only))

    def __str__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"ObjectsStore({self})"

    def with_read_only(self, read_only: bool = False) -> ObjectsStore:
        """The same objects, writable or not."""
        return ObjectsStore(self.folder, read_only=read_only)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """An object or a part of it, None where there is none."""
        try:
            content = await asyncio.to_thread(_read, self.folder / key, byte_range)
        except FileNotFoundError:
            return None
        return prototype.buffer.from_bytes(content)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several parts at once."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return await asyncio.to_thread((self.folder / key).is_file)

    async def set(self, key: str, value: Buffer) -> None:
        """Put a whole object."""
        self._check_writable()
        await asyncio.to_thread((self.folder / key).write_bytes, value.to_bytes())

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Put a whole object unless one is there."""
        self._check_writable()
        with suppress(Conflict):
            await asyncio.to_thread((self.folder / key).create, value.to_bytes())

    async def delete(self, key: str) -> None:
        """Delete an object, if it is there."""
        self._check_writable()
        await asyncio.to_thread((self.folder / key).unlink)

    async def list(self) -> AsyncIterator[str]:
        """Names of all objects."""
        async for name in self.list_prefix(""):
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Names of all objects that begin with a prefix."""
        for path, _ in await asyncio.to_thread(lambda: list(self.folder.walk())):
            name = path.relative_to(self.folder).as_posix()
            if name.startswith(prefix):
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names one level below."""
        for path in await asyncio.to_thread(lambda: list((self.folder / prefix).iterdir())):
            yield path.name


def _read(path: ObjectPath, part: ByteRequest | None) -> bytes:
    match part:
        case None:
            return path.read_bytes()
        case RangeByteRequest(start, end):
            return path.read_range(start, end - start)
        case SuffixByteRequest(size):
            return path.read_end(size)[0]
        case OffsetByteRequest(offset):
            return path.read_bytes()[offset:]
    raise ValueError(f"{part} is no part of an object")
