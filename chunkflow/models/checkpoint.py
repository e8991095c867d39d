"""Checkpoints of a training: tensors, numbers, texts, lists and maps in one file, whole or not there.

They are read without running what is in them, and written beside their place and renamed, so that a kill leaves the old
one or the new one. What a killed writer leaves has the name that `storage.files` sweeps.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from chunkflow.errors import DiskFullError, ModelError, is_disk_full

FORMAT = 1


def read_checkpoint(checkpoint: str | Path | None) -> dict[str, Any] | None:
    """A checkpoint, read without running what is in it; None where there is none.

    Raises
    ------
    ModelError : it is damaged.
    """
    if checkpoint is None or not Path(checkpoint).is_file():
        return None
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if saved["format"] != FORMAT:
            raise KeyError(saved["format"])
    except (RuntimeError, UnpicklingError, KeyError, TypeError, EOFError, ValueError) as error:
        raise ModelError(f"{checkpoint} is no checkpoint that can be read", "Start the training over") from error
    found: dict[str, Any] = saved
    return found


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the checkpoint by a whole new one: a kill leaves the old one or the new one.

    Raises
    ------
    DiskFullError : there is no space for it; the old one is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        if _is_full(error):
            raise DiskFullError(
                f"no space left to write {path}", "Free some space and run the same command again"
            ) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def _is_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error: torch says of one that the position in the file is unexpected."""
    while error is not None:
        if is_disk_full(error):
            return True
        error = error.__context__
    return False
