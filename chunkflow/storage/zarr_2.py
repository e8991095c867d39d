"""What the metadata of a zarr 2 array say, and what its chunks hold beyond that.

    .zarray       "compressor": {"id": "zstd", "level": 3}          what the specification's readers know
    chunks        zstd frames with a checksum                        the frame says so itself, in its header

zarr-python writes a member `checksum` beside the level. tensorstore refuses to open an array whose compressor has a
member that it does not know, and codecs of numcodecs before 0.13 do too. Whoever reads a frame finds and compares its
checksum without being told; only who writes has to know, so the member is put back where an array is opened to write.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import zarr
from numcodecs import Zstd
from zarr.core.metadata import ArrayV2Metadata

CHECKSUM = "checksum"


def codec(level: int) -> dict[str, Any]:
    """The codec of our chunks as zarr-python names it."""
    return {"id": "zstd", "level": level, CHECKSUM: True}


def plain_metadata(content: bytes) -> bytes:
    """What zarr-python writes as .zarray, without the member that others do not know."""
    told = json.loads(content)
    told["compressor"].pop(CHECKSUM)
    return json.dumps(told, indent=2).encode()


def with_checksums(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """An array whose zstd chunks are written with checksums, whatever its metadata say; others as they are."""
    known = array.metadata
    compressor = known.compressor if isinstance(known, ArrayV2Metadata) else None
    if not isinstance(compressor, Zstd) or compressor.checksum:
        return array
    metadata = replace(known, compressor=Zstd(level=compressor.level, checksum=True))
    inner = array.async_array
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=inner.store_path, config=inner.config))
