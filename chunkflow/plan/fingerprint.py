"""What a pass is known by: a digest of everything that can change one of its bits.

Two passes with one fingerprint leave the same bytes, so a finished one is re-used; nothing else is looked at, neither
names nor times. The compute kind (device and library versions) is part of it, the number of workers is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

FORMAT = 2  # raised when the meaning of stored arrays or records changes


def fingerprint(content: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a canonical JSON of the content."""
    text = json.dumps(canonical({"format": FORMAT, **content}), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(value: Any) -> Any:
    """JSON values that are equal exactly when the content is.

    Dataclasses carry their class and version; fields marked `metadata={"fingerprint": False}` are left out. Arrays
    become their dtype, shape and digest.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kept = (f for f in fields(value) if f.metadata.get("fingerprint", True))
        named = {f.name: canonical(getattr(value, f.name)) for f in kept}
        return {"class": type(value).__name__, "version": getattr(value, "version", 0), **named}
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"array": [value.dtype.str, list(value.shape), digest]}
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(canonical(item) for item in value)
    if isinstance(value, np.generic):
        return canonical(value.item())
    if isinstance(value, float):
        return value.hex()
    return value
