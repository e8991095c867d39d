"""Which files an .onnx refers to: found by walking its protocol buffers, without a library and without its arrays.

A message is a row of fields, each a key (number and wire type) and a value; what is not a part that can hold an array
is skipped by its length, so gigabytes of weights cost nothing. Numbers of fields: onnx.proto of the ONNX specification,
IR version 10.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from chunkflow.errors import ModelError

EXTERNAL_DATA, KEY, VALUE = 13, 1, 2
# By message: the fields that lead to arrays, and the message each of them holds.
PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {EXTERNAL_DATA: "entry"},
}
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED = {FIXED64: 8, FIXED32: 4}
MOST_DEPTH = 64


def external_files(path: Path) -> list[str]:
    """Names of the files that hold arrays of the network, relative to its folder, each once and in order.

    Raises
    ------
    ModelError : the file is damaged or no ONNX.
    """
    try:
        with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return names_in(content)
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is damaged or no ONNX: {error}", "Export it again") from error


def names_in(content: mmap.mmap | bytes) -> list[str]:
    """The same for bytes at hand.

    Raises
    ------
    ValueError, IndexError, UnicodeDecodeError : these are not the bytes of a network.
    """
    found: dict[str, None] = {}
    if not any(number == 7 for number, *_ in _fields(content, 0, len(content))):
        raise ValueError("it holds no graph")
    pending = [("model", 0, len(content), 0)]
    while pending:
        message, start, stop, depth = pending.pop()
        if depth > MOST_DEPTH:
            raise ValueError("graphs are nested too deeply")
        for number, first, last in _fields(content, start, stop):
            inner = PARTS[message].get(number)
            if inner == "entry":
                name = _location(content, first, last)
                found |= {} if name is None else {name: None}
            elif inner is not None:
                pending.append((inner, first, last, depth + 1))
    return sorted(found)


def _location(content: mmap.mmap | bytes, start: int, stop: int) -> str | None:
    """The value of an entry whose key is "location"."""
    texts = {number: bytes(content[first:last]) for number, first, last in _fields(content, start, stop)}
    return texts.get(VALUE, b"").decode("utf-8") if texts.get(KEY) == b"location" else None


def _fields(content: mmap.mmap | bytes, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and stop of every field that holds bytes; others are stepped over."""
    while start < stop:
        key, start = _varint(content, start)
        if key >= 1 << 32:  # other readers drop what is above, and see another field
            raise ValueError(f"a field has the number {key >> 3}")
        kind = key & 7
        if kind == VARINT:
            _, start = _varint(content, start)
        elif kind in FIXED:
            start += FIXED[kind]
        elif kind == BYTES:
            length, start = _varint(content, start)
            if start + length > stop:
                raise ValueError("it ends in the middle of a field")
            yield key >> 3, start, start + length
            start += length
        else:
            raise ValueError(f"a field is of the unknown kind {kind}")
    if start != stop:
        raise ValueError("it ends in the middle of a field")


def _varint(content: mmap.mmap | bytes, start: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, start
    raise ValueError("a number has no end")
