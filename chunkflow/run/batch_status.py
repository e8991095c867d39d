"""What the output folder of a batch holds: how many images are done, which failed and why, what goes on with it.

Read from the outcome that each image left, so that it is true during a batch and after a kill. Looks into no result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from chunkflow.errors import InputNotFoundError, UsageError
from chunkflow.run.batch_inputs import natural
from chunkflow.run.batch_state import RUN, STATE, BatchState, Outcome
from chunkflow.run.lock import is_locked
from chunkflow.storage.stores import Place

BatchWord = Literal["running", "complete", "failed", "interrupted"]


@dataclass(frozen=True, slots=True)
class FailedImage:
    """An image without a result, and the sentence that says why."""

    file: str
    error: str


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """One batch.

    state : "failed": images failed; "interrupted": it ended before all of them were tried
    images : how many there are; None of a batch that an older version began
    done : how many have a result
    incomplete : those of them that lack something
    failed : the others that were tried
    command : what tries those without a result again; empty where it is not known
    """

    output: Path
    state: BatchWord
    images: int | None
    done: int
    incomplete: tuple[str, ...]
    failed: tuple[FailedImage, ...]
    command: str

    @property
    def left(self) -> int:
        """Images that were not tried yet."""
        return 0 if self.images is None else max(0, self.images - self.done - len(self.failed))

    def to_dict(self) -> dict[str, Any]:
        """The status as JSON values."""
        return {**asdict(self), "output": str(self.output), "left": self.left}


def is_batch_output(folder: Path) -> bool:
    """Whether a folder is the output of a batch, begun or done."""
    return (folder / RUN / STATE).is_file() or (folder / RUN / "files").is_dir()


def check_one_result(place: Place) -> None:
    """Refuse the output of a batch where the result of one image is looked at.

    Raises
    ------
    UsageError : it is one.
    """
    if not isinstance(place, Path) or not is_batch_output(place):
        return
    done = next((known.name for known in _outcomes(place, None) if known.status == "done"), None)
    remedy = "Run it again" if done is None else f"Name the result of one, such as {place / done}"
    raise UsageError(f"{place} holds a batch, which has a result per image", remedy)


def batch_status(output: str | Path) -> BatchStatus:
    """What the output of a batch holds.

    Raises
    ------
    InputNotFoundError : it is the output of no batch.
    """
    folder = Path(output)
    if not is_batch_output(folder):
        raise InputNotFoundError(f"{output} holds no batch", "Give the output folder of chunkflow run")
    is_running = is_locked(folder / RUN)
    content = _content(folder)
    names: list[str] | None = content.get("images")
    outcomes = _outcomes(folder, names)
    failed = tuple(FailedImage(known.name, known.error) for known in outcomes if known.status == "failed")
    done = [known for known in outcomes if known.status == "done"]
    incomplete = tuple(known.name for known in done if known.row.get("incomplete"))
    images = None if names is None else len(names)
    state: BatchWord = "complete"
    if is_running:
        state = "running"
    elif images is None or len(done) + len(failed) < images:
        state = "interrupted"
    elif failed:
        state = "failed"
    return BatchStatus(folder, state, images, len(done), incomplete, failed, str(content.get("command", "")))


def _content(folder: Path) -> Mapping[str, Any]:
    try:
        content = json.loads((folder / RUN / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # killed before it was written
    return content if isinstance(content, dict) else {}


def _outcomes(folder: Path, names: list[str] | None) -> list[Outcome]:
    """Of the images of the batch; of all that left one where the images are not known."""
    files = folder / RUN / "files"
    if names is None:
        names = [path.relative_to(files).with_suffix("").as_posix() for path in files.rglob("*.json")]
    state = BatchState(folder)
    found = [state.outcome(name) for name in sorted(names, key=natural)]
    return [known for known in found if known is not None]
