"""Connections to object stores: one per bucket and process, and what goes over them.

A store is opened with credentials that this process finds in its environment, and with the library's own retries off:
`storage/retry.py` tries again, and counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

import obstore
from obstore.store import GCSStore, HTTPStore, S3Store

from chunkflow.storage.credentials import s3_options
from chunkflow.storage.retry import count

T = TypeVar("T")
U = TypeVar("U")

AT_ONCE = 16
"""Requests of one process."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What is known of an object without reading it. tag : of its content, by the store"""

    size: int
    modified: datetime
    tag: str
    version: str | None = None


def at_once(function: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """`function` of every item, in order, several at once. Not from inside such a function: it could wait forever."""
    tasks = list(items)
    if len(tasks) <= 1:
        return [function(task) for task in tasks]
    return list(_threads().map(function, tasks))


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(AT_ONCE, thread_name_prefix="requests")


def answer(store: Any, key: str, options: Any) -> tuple[bytes, Any]:
    """Body and description together, so that a line cut in the body is tried again too."""
    found = obstore.get(store, key, options=options)
    return bytes(found.bytes()), found.meta


def got(sent: tuple[bytes, Any]) -> tuple[bytes, Stamp]:
    """What was sent, counted."""
    content, meta = sent
    count(bytes_read=len(content))
    return content, stamp_of(meta)


def page(store: Any, prefix: str, last: str, length: int) -> list[Any]:
    """The first objects behind `last`. The stream asks for the page after only when more than one is taken."""
    options: dict[str, Any] = {"offset": last} if last else {}
    stream = obstore.list(store, prefix or None, chunk_size=length, **options)
    return list(next(iter(stream), []))


def stamp_of(meta: Any) -> Stamp:
    """Of what the library says of an object."""
    return Stamp(int(meta["size"]), meta["last_modified"], str(meta["e_tag"] or ""), meta.get("version"))


@lru_cache(maxsize=32)
def opened(root: str) -> Any:
    """The store of a bucket, once per process. Its own retries are off, as ours are counted."""
    scheme, _, host = root.partition("://")
    allow_http = scheme == "http" or os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes")
    client: Any = {"timeout": "120s", "connect_timeout": "10s", "allow_http": allow_http}
    never: Any = {"max_retries": 0}
    if scheme == "s3":
        return S3Store(host, client_options=client, retry_config=never, **s3_options())
    if scheme == "gs":
        return GCSStore(host, client_options=client, retry_config=never)
    return HTTPStore(root, client_options=client, retry_config=never)
