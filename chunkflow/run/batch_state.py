"""What a batch knows of each of its images, on disk, so that the same command goes on where it was stopped.

    OUT/run/batch.json              the pipeline, as everybody runs it, the images, and what the batch found
    OUT/run/files/NAME.json         key, status, error and row of an image: written whole when its run ends
    OUT/run/files/NAME.picture      what the contact sheet shows of it
    OUT/run/histograms/NAME.rec     its histogram, where all share a threshold
    OUT/NAME/                       the result, a run like any other

An image is done when its file says so under the key of today: a digest of the pipeline, of the files it names, and of
what the image is known by. Each file has one writer, the process that runs that image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import ChunkflowError, IntegrityError
from chunkflow.plan.pipeline import Pipeline
from chunkflow.run.batch_inputs import Item
from chunkflow.storage.files import write_atomic
from chunkflow.storage.identity import identity
from chunkflow.storage.omezarr import open_volume
from chunkflow.storage.records import read_record, write_record

Status = Literal["done", "failed", "large"]

RUN = "run"
"""Folder of a batch's own files in its output."""
STATE = "batch.json"
"""In that folder: the pipeline, the command, the images, and what the batch found."""
FILE_KEYS = ("path", "mask", "dark", "flat", "regions", "image", "from", "statistics_from")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the run of one image ended.

    key : what it was computed from
    status : "large" is one that does not fit one block, put off until the small ones are done
    error : a sentence, where it failed; exit_code, traceback : of that error, the last where nobody expected it
    row : measures, by their names
    seconds : spent on it in all; kernel_seconds : of those on computing, without reading and writing
    """

    name: str
    key: str
    status: Status
    error: str = ""
    exit_code: int = 0
    traceback: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    kernel_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class BatchState:
    """What a batch keeps in its folder `output`."""

    output: Path

    def file(self, name: str) -> Path:
        """Where the outcome of an image is kept."""
        return self.output / RUN / "files" / f"{name}.json"

    def picture_file(self, name: str) -> Path:
        """Where its picture is."""
        return self.output / RUN / "files" / f"{name}.picture"

    def histogram_file(self, name: str) -> Path:
        """Where its histogram is."""
        return self.output / RUN / "histograms" / f"{name}.rec"

    def store(self, outcome: Outcome) -> None:
        """Keep an outcome."""
        write_atomic(self.file(outcome.name), json.dumps(asdict(outcome)).encode(), durable=False)

    def outcome(self, name: str) -> Outcome | None:
        """What is known of an image; None for nothing, and for a file that a kill or an old version left."""
        try:
            return Outcome(**json.loads(self.file(name).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def store_picture(self, name: str, picture: Mapping[str, NDArray[Any]]) -> None:
        """Keep a picture."""
        write_record(self.picture_file(name), picture)

    def picture(self, name: str) -> dict[str, NDArray[Any]]:
        """The picture of an image; empty where there is none."""
        try:
            return read_record(self.picture_file(name))
        except IntegrityError:
            return {}

    def store_histogram(self, name: str, key: str, histogram: Mapping[str, NDArray[Any]]) -> None:
        """Keep a histogram, and what it was counted from."""
        write_record(self.histogram_file(name), {**histogram, "key": np.frombuffer(key.encode(), np.uint8)})

    def histogram(self, name: str, key: str) -> dict[str, NDArray[Any]] | None:
        """The histogram of an image, if it was counted from what the key says."""
        try:
            found = read_record(self.histogram_file(name))
        except IntegrityError:
            return None
        return found if found.pop("key").tobytes() == key.encode() else None


def key_of(pipeline: Pipeline, item: Item) -> str:
    """What the result of an image follows from: pipeline, the files it names, and what tells the image from another.

    An image that cannot be opened has a key too: its run says what is wrong with it.
    """
    content = pipeline.to_dict()
    content["output"].pop("path")
    content["input"].pop("path")
    known = {"pipeline": content, "files": _named_files(content), "time": item.time, "input": _source(pipeline, item)}
    return hashlib.blake2b(json.dumps(known, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _source(pipeline: Pipeline, item: Item) -> Any:
    try:
        if item.is_file:
            return [*_stamp(Path(item.path)), *([] if item.dataset is None else [item.dataset])]
        time = item.time if item.time is not None else pipeline.input.time
        chosen = None if time == "all" else time
        return identity(open_volume(item.path, channel=pipeline.input.channel, time=chosen, level=pipeline.input.level))
    except (ChunkflowError, OSError) as error:
        return str(error)


def _named_files(value: Any, key: str = "") -> list[Any]:
    """Size and time of every file, and of what is in every folder, that a pipeline names."""
    if isinstance(value, Mapping):
        return [found for name, inner in value.items() for found in _named_files(inner, str(name))]
    if isinstance(value, list):
        return [found for inner in value for found in _named_files(inner, key)]
    if key not in FILE_KEYS or not isinstance(value, str) or not Path(value).exists():
        return []
    path = Path(value)
    return [_stamp(path)] if path.is_file() else [_stamp(inner) for inner in sorted(path.iterdir())]


def _stamp(path: Path) -> list[Any]:
    status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns]
