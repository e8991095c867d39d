"""Requests to an object store: tried again where that may help, counted, and never mistaken for an absent object.

    404                             FileNotFoundError      the only answer that means "not there"
    404 of the bucket itself        AccessError            at once
    401, 403, expired credentials   AccessError            at once
    429, 5xx, timeouts, cut lines   tried again with back-off for three minutes, then StoreError
    412, 409 of a conditional put   Conflict               whoever asked looks at what is there
    416, no ranges                  BeyondEnd, Whole       likewise
    anything else                   StoreError             at once

The library's own retries are off: they cannot be counted. What a store answers may repeat signatures and keys, so of an
answer only its status and its code are passed on.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Literal, TypeAlias, TypeVar

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from chunkflow.errors import AccessError, StoreError

T = TypeVar("T")
Kind: TypeAlias = Literal["get", "put", "head", "list", "delete", "copy"]
KINDS: tuple[Kind, ...] = ("get", "put", "head", "list", "delete", "copy")

PATIENCE_SECONDS = 180.0
"""How long one request is tried again, unless `patient` says otherwise."""
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 15.0

_STATUS = re.compile(r"status(?: code)?: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_KIND = re.compile(r"kind: (Connect|Timeout|Request|Body|Decode|Interrupted)\b")
_PASSING_CODES = {"RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable", "OperationAborted"}
_LOGIN_CODES = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_LASTING = ("redirect", "kind: Builder", "status: 501")  # another region, http:// that is not allowed, no such function
_NO_LOGIN = ("169.254.169.254", "metadata.google.internal", "CredentialNotLoaded", "MissingCredentials")


class Conflict(Exception):  # noqa: N818 - an answer to a conditional put, not something wrong
    """The object is not what a conditional put was told it is."""


class BeyondEnd(Exception):  # noqa: N818 - likewise an answer
    """The range asked for begins behind the object's last byte."""


class Whole(Exception):  # noqa: N818 - likewise
    """The whole object was sent where a range was asked for."""


_patience: ContextVar[float | None] = ContextVar("patience", default=None)
_lock = Lock()
_counts: Counter[str] = Counter()


@contextmanager
def patient(seconds: float) -> Iterator[None]:
    """Try requests of this thread again for so long, for whoever only wants to know whether a store is there."""
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


def count(**more: int) -> None:
    """Add to this process's counts."""
    with _lock:
        _counts.update(more)


def take_counts() -> dict[str, int]:
    """Requests by kind, `retries` among them, `bytes_read` and `bytes_written` since this was last asked here.

    Units that run side by side in one process share a count: each request is in exactly one of their figures.
    """
    with _lock:
        taken = {name: _counts[name] for name in sorted(_counts) if _counts[name]}
        _counts.clear()
    return taken


def added(counts: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Two counts as one."""
    return dict(sorted((Counter(counts) + Counter(more)).items()))


def request(kind: Kind, where: str, call: Callable[[], T]) -> T:
    """The answer to one request, however many attempts that takes.

    where : the object, for messages

    Raises
    ------
    FileNotFoundError, AccessError, StoreError, Conflict, BeyondEnd, Whole : see above.
    """
    began, wait, patience = time.monotonic(), FIRST_WAIT_SECONDS, _patience.get() or PATIENCE_SECONDS
    while True:
        count(**{kind: 1})
        try:
            return call()
        except (BaseError, OSError) as error:
            refused = _refusal(error, where)
            reason = _reason(error)
        if refused is not None:
            raise refused  # outside of the handler, so that what the library says is not shown with it
        if time.monotonic() - began + wait > patience:
            raise StoreError(
                f"{where} cannot be reached: no {kind} was answered for {patience:.0f} s (last: {reason})",
                "Check the network and the store, and run the same command again",
            )
        count(retries=1)
        time.sleep(wait * random.uniform(0.5, 1.0))  # apart, so that workers do not come back all at once
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)


def _refusal(error: Exception, where: str) -> Exception | None:
    """What to raise at once; None where another attempt may fare better."""
    text = str(error)
    status, code = _found(_STATUS, text), _found(_CODE, text)
    if isinstance(error, AlreadyExistsError | PreconditionError):
        return Conflict(where)
    if code == "NoSuchBucket":
        return AccessError(f"the bucket of {where} does not exist", "Check the name, the region and endpoint")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{where} does not exist")
    if any(sign in text for sign in _NO_LOGIN):
        return AccessError(
            f"there are no credentials for {where}",
            "Set them in the environment or the usual files (docs/stores.md); public data: AWS_SKIP_SIGNATURE=true",
        )
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or code in _LOGIN_CODES:
        return AccessError(
            f"the store refuses access to {where} ({_reason(error)})",
            "Check the credentials in the environment, and that they allow to get, put, list and delete there (without"
            " the right to list, S3 refuses what does not exist)",
        )
    if status == "416":
        return BeyondEnd(where)
    if "non-partial" in text or isinstance(error, NotSupportedError):
        return Whole(where)
    passing = code in _PASSING_CODES or status in (None, "408", "425", "429") or status >= "500"
    if isinstance(error, GenericError) and passing and not any(sign in text for sign in _LASTING):
        return None
    return StoreError(
        f"the store refuses a request for {where} ({_reason(error)})",
        "Check the endpoint, the region and, for http://, AWS_ALLOW_HTTP=true",
    )


def _reason(error: Exception) -> str:
    """Status, code and kind of an error, and nothing else of it."""
    text = str(error)
    status, code, kind = (_found(pattern, text) for pattern in (_STATUS, _CODE, _KIND))
    words = [f"status {status}" if status else "", code or "", f"{kind.lower()} error" if kind else ""]
    return ", ".join(word for word in words if word) or type(error).__name__


def _found(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return match[1] if match else None
