"""Whether an object store does what a run asks of it: each kind of request once, on a small object of its own.

    put         where nothing may be yet (If-None-Match)
    conditions  a second put of that kind, and one on an old tag (If-Match), must be refused: locks and journals need it
    get         whole, and a range
    list        the object is in it
    copy        inside the store, as results are put in their places
    clock       the store's time of the put and this machine's
    delete      ... after which it is not there, which S3 says only to those who may list

Where a put is refused the place may still be an input: then what is there is listed and read. Nothing is left behind
but what the store does not let go. Of what it answers only its status and its code are told (see `storage.retry`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Literal, TypeAlias

from chunkflow.errors import AccessError, ChunkflowError, StoreError, UsageError
from chunkflow.storage.connections import Stamp
from chunkflow.storage.retry import Conflict, patient
from chunkflow.storage.stores import ObjectPath, place_of

Verdict: TypeAlias = Literal["ok", "note", "problem"]

PATIENCE_SECONDS = 15.0
"""For one request: a run is more patient, who looks is not."""
NOTED_SKEW, LARGEST_SKEW = 60.0, 300.0
"""Seconds between two clocks that are told, and that make `status` and the takeover of outputs wrong; at 900 s S3
refuses every request."""
LISTED = 1000
"""Objects, which is a request."""
RIGHTS = {"put": "PutObject", "get": "GetObject", "list": "ListBucket", "copy": "PutObject", "delete": "DeleteObject"}
"""What the owner of an S3 bucket has to allow for a step."""
REMEDIES = {
    "RequestTimeTooSkewed": "Set the clock of this machine: it is more than 15 minutes from the store's",
    "InvalidAccessKeyId": "The store does not know this key: check AWS_ACCESS_KEY_ID, AWS_PROFILE and AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": "Check AWS_SECRET_ACCESS_KEY, AWS_REGION, and the clock of this machine",
    "ExpiredToken": "Sign in again: the session has ended",
    "AuthorizationHeaderMalformed": "Set AWS_REGION to the region of the bucket",
    "IllegalLocationConstraint": "Set AWS_REGION to the region of the bucket",
    "PermanentRedirect": "Set AWS_REGION to the region of the bucket, or AWS_ENDPOINT_URL to its endpoint",
    "status 301": "Set AWS_REGION to the region of the bucket, or AWS_ENDPOINT_URL to its endpoint",
    "does not exist": "Check the name of the bucket, AWS_ENDPOINT_URL and AWS_REGION",
    "connect error": "Check AWS_ENDPOINT_URL and the network: nobody answers there",
    "cannot be reached": "Check AWS_ENDPOINT_URL and the network, or try later: the store does not answer as it should",
}
"""By what the message of an error holds."""
CONDITIONS = "Use a store that keeps conditions on puts: Amazon S3, GCS, MinIO, Ceph from Squid on, Cloudflare R2"


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """What came of one step. step : of those above; remedy : what to do, where it is not well"""

    step: str
    verdict: Verdict
    found: str
    remedy: str = ""


def check_store(location: str) -> Iterator[StoreCheck]:
    """Try every kind of request at a place of an object store, each as soon as it is asked for.

    Parameters
    ----------
    location : s3:// or gs://, where inputs lie or outputs are to; or https://, which can only be read.

    Raises
    ------
    UsageError : it is no URL.
    """
    place = place_of(location)
    if not isinstance(place, ObjectPath):
        raise UsageError(f"{location} is no URL", "Give s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, or use --folder DIR")
    if place.is_read_only:
        yield _tried("get", lambda: _read_web(place))
        return
    trial = _Trial(place)
    try:
        first = _tried("put", trial.put)
        yield first
        steps = ("conditions", "get", "list", "copy", "clock", "delete") if first.verdict == "ok" else ("list", "get")
        for step in steps:
            yield _tried(step, getattr(trial, step))
    finally:
        with suppress(ChunkflowError, OSError), patient(PATIENCE_SECONDS):
            trial.sweep()


class _Trial:
    """An object of our own, and what has become of it."""

    def __init__(self, place: ObjectPath) -> None:
        self._place = place
        self._object = place / f".chunkflow-doctor-{uuid.uuid4().hex}"
        self._copy = self._object.with_name(f"{self._object.name}-copy")
        self._content = f"written by chunkflow doctor, to be deleted: {uuid.uuid4().hex}".encode()
        self._stamp: Stamp | None = None
        self._was_put: datetime | None = None
        self._is_there: list[ObjectPath] = []

    def put(self) -> str:
        self._is_there = [self._object]  # also where the answer is lost
        now = datetime.now(UTC)
        self._object.create(self._content)
        self._was_put = now
        return f"{self._place} can be written"

    def conditions(self) -> str:
        self._refused("If-None-Match", lambda: self._object.create(self._content + b", twice"))
        old = self._object.stamp()
        if old is None:
            raise StoreError("what was put is not there", "Report it to whoever runs the store")
        self._content += b", and once more"
        stamp = self._object.replace_if(self._content, old)
        self._refused("If-Match", lambda: self._object.replace_if(self._content + b", on an old tag", old))
        self._stamp = stamp  # what is there is known
        return "puts on condition are refused where they must be"

    def get(self) -> str:
        wanted = self._object if self._was_put is not None else self._first()
        if wanted is None:
            return "there is nothing to read yet"
        content = wanted.read_range(0, 64)
        if self._stamp is not None and self._content != wanted.read_bytes():
            raise StoreError("what was put is read as something else", "Report it to whoever runs the store")
        return "what was put is read back" if self._stamp else f"{len(content)} bytes of {wanted} were read"

    def list(self) -> str:
        names = {path.name for path, _ in self._place.walk(at_most=LISTED)}
        if self._was_put is not None and len(names) < LISTED and self._object.name not in names:
            raise StoreError("what was put is not listed", "Use a store whose lists are complete at once")
        others = len(names - {self._object.name})
        return f"{others} other object{'' if others == 1 else 's'}{' or more' if len(names) == LISTED else ''}"

    def copy(self) -> str:
        self._is_there.append(self._copy)
        self._object.copy_to(self._copy)
        return "an object was copied inside the store"

    def delete(self) -> str:
        self.sweep()
        left = [path.name for path in (self._object, self._copy) if path.is_file()]
        if left:
            raise AccessError(f"{' and '.join(left)} cannot be deleted", f"Allow s3:{RIGHTS['delete']}, and delete it")
        self._is_there = []
        return "nothing is left behind"

    def clock(self) -> str:
        stamp = self._stamp or self._object.stamp()
        if self._was_put is None or stamp is None:
            raise StoreError("what was put is not there", "Report it to whoever runs the store")
        seconds = abs((self._was_put - stamp.modified).total_seconds())
        if seconds > NOTED_SKEW:
            raise _SkewError(seconds)
        return "this machine's and the store's agree"

    def sweep(self) -> None:
        """Delete what was put."""
        for path in self._is_there:
            path.unlink()

    def _first(self) -> ObjectPath | None:
        return next((path for path, _ in self._place.walk(at_most=1)), None)

    def _refused(self, header: str, put: Callable[[], object]) -> None:
        try:
            put()
        except Conflict:
            return
        raise StoreError(f"the store ignores {header}, so two runs could write one output", CONDITIONS)


class _SkewError(StoreError):
    """The clocks differ."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"this machine's clock and the store's are {seconds:.0f} s apart",
            "Set this machine's clock: `status` and the takeover of outputs go by it, and S3 refuses 900 s",
        )
        self.is_large = seconds > LARGEST_SKEW


def _tried(step: str, call: Callable[[], str]) -> StoreCheck:
    """One step, with what it took or what is wrong."""
    began = perf_counter()
    try:
        with patient(PATIENCE_SECONDS):
            found = call()
    except _SkewError as error:
        return StoreCheck(step, "problem" if error.is_large else "note", error.what, error.remedy)
    except (ChunkflowError, FileNotFoundError, Conflict) as error:
        return StoreCheck(step, "problem", *_wrong(step, error))
    took = "" if step == "clock" else f", {1000 * (perf_counter() - began):.0f} ms"
    return StoreCheck(step, "ok", f"{found}{took}")


def _wrong(step: str, error: Exception) -> tuple[str, str]:
    """What is wrong, and what to do."""
    if not isinstance(error, ChunkflowError):
        return f"{step}: another process changes what was put ({type(error).__name__})", "Try again"
    for sign, remedy in REMEDIES.items():
        if sign in error.what:
            return error.what, remedy
    if "status 403" in error.what and step in RIGHTS:
        public = "" if step == "put" else ", or set AWS_SKIP_SIGNATURE=true for public data"
        return error.what, f"Let the credentials do s3:{RIGHTS[step]} there{public}"
    return error.what, error.remedy


def _read_web(place: ObjectPath) -> str:
    """Of a web server, which has no lists: the metadata of an image."""
    for name in ("zarr.json", ".zattrs", ".zarray"):
        with suppress(FileNotFoundError):
            return f"{len((place / name).read_bytes())} bytes of {place / name} were read"
    raise StoreError(f"{place} holds no zarr.json, .zattrs or .zarray", "Name the folder of an OME-Zarr image")
