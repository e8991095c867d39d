"""Files for a browser: a folder behind the port of Neuroglancer's own server, under a path that cannot be guessed.

    browser  -->  127.0.0.1:PORT/v/...      the page
             -->  127.0.0.1:PORT/data/...   files of a folder, or objects of a store that are fetched for it

One port is enough for the viewer and the data, so `ssh -L PORT:127.0.0.1:PORT` shows a folder of another machine, and
objects are read with the credentials of whoever started it: a bucket needs to be neither public nor open to pages of
other origins. Ranges of bytes are answered, which shards need. The folder of the run, whose journal names paths and
commands, is not served.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tornado.web import HTTPError, RequestHandler, StaticFileHandler

from chunkflow.errors import ChunkflowError
from chunkflow.storage.stores import ObjectPath, Place

TOKEN_BYTES = 20
HIDDEN = "run"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


def _open_to_pages(handler: RequestHandler) -> None:
    handler.set_header("Access-Control-Allow-Origin", "*")
    handler.set_header("Access-Control-Allow-Headers", "range")
    handler.set_header("Access-Control-Expose-Headers", "content-range")


class FolderHandler(StaticFileHandler):
    """Files below one folder; parts of them, where a range is asked for."""

    def set_default_headers(self) -> None:
        _open_to_pages(self)

    def options(self, path: str) -> None:
        self.set_status(204)

    @classmethod
    def get_content_version(cls, abspath: str) -> str:
        """Size and time: the digest that tornado takes would read a whole shard for each part of it."""
        state = Path(abspath).stat()
        return f"{state.st_size:x}-{state.st_mtime_ns:x}"

    def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
        if Path(absolute_path).resolve().is_relative_to(Path(root).resolve() / HIDDEN):
            raise HTTPError(404)
        return super().validate_absolute_path(root, absolute_path)


class ObjectHandler(RequestHandler):
    """Objects below one prefix; parts of them, where a range is asked for."""

    def initialize(self, prefix: ObjectPath) -> None:
        self.prefix = prefix

    def set_default_headers(self) -> None:
        _open_to_pages(self)

    def options(self, path: str) -> None:
        self.set_status(204)

    async def head(self, path: str) -> None:
        """The length alone, from which Neuroglancer learns where the index of a shard begins."""
        size = await self._from_store(ObjectPath.size, self._object(path))
        if size is None:
            raise HTTPError(404)
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("Content-Length", str(size))
        await self.finish()

    async def get(self, path: str) -> None:
        asked = _RANGE.match(self.request.headers.get("Range", ""))
        wanted = None if asked is None else (asked[1], asked[2])
        content, first, size = await self._from_store(_part, self._object(path), wanted)
        self.set_header("Content-Type", "application/octet-stream")
        if wanted is not None:
            self.set_status(206)
            self.set_header("Content-Range", f"bytes {first}-{first + len(content) - 1}/{size}")
        await self.finish(content)

    def _object(self, path: str) -> ObjectPath:
        parts = path.split("/")
        if parts[0] == HIDDEN or ".." in parts:
            raise HTTPError(404)
        return self.prefix / path

    async def _from_store(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        """What a store answers, while others are served."""
        try:
            return await asyncio.to_thread(ask, *arguments)
        except FileNotFoundError as error:
            raise HTTPError(404) from error
        except ChunkflowError as error:
            raise HTTPError(502, str(error)) from error


def _part(file: ObjectPath, wanted: tuple[str, str] | None) -> tuple[bytes, int, int | str]:
    """Content of a range (or of everything), where it begins, and the length of the whole, * where that is unknown.

    wanted : first and last byte as a request names them; without a first one, the last is how many from the end.
    """
    if wanted is None:
        content = file.read_bytes()
        return content, 0, len(content)
    first, last = wanted
    if not first:
        content, size = file.read_end(int(last or 0))
        return content, size - len(content), size
    stop = int(last) + 1 if last else file.size()
    if stop is None:
        raise FileNotFoundError(str(file))
    content = file.read_range(int(first), stop - int(first))
    if not content:
        raise HTTPError(416)
    return content, int(first), "*"


def served(server: Any, place: Place) -> str:
    """The URL under which a server of Neuroglancer's gives the files of a place from now on."""
    token = secrets.token_hex(TOKEN_BYTES)
    if isinstance(place, ObjectPath):
        handler: tuple[Any, ...] = (rf"/data/{token}/(.*)", ObjectHandler, {"prefix": place})
    else:
        handler = (rf"/data/{token}/(.*)", FolderHandler, {"path": str(place)})
    server.app.add_handlers(".*$", [handler])
    return f"{server.server_url}/data/{token}"
