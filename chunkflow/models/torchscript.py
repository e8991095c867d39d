"""TorchScript archives (.torchscript, .pt): programs of torch.jit, which torch deprecates and zoos still hold.

Such a program is no Python, but it is more than arithmetic: it can write files (`torch.save`), map them
(`torch.from_file`) and call whatever C++ is registered, some of it while it is loaded (`__setstate__`). So an archive
is first read as what it is - text and arrays - and refused where its text calls anything but torch's operators on
arrays. Then torch reads a copy that holds the checked parts and nothing else. What is left is what the docs say: faults
of torch's own operators, and programs that never end.

The check knows names, not intentions: it parses the source, which PyTorch writes as a subset of Python's syntax.
"""

from __future__ import annotations

import ast
import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from chunkflow.errors import ModelError
from chunkflow.models import files
from chunkflow.models.adapters import probed_model
from chunkflow.models.model import EXTRA_FILE, Model, Stated, import_torch

if TYPE_CHECKING:
    import torch

MOST_SOURCE = 16 * 2**20

# Operators that reach beyond arrays, from the schemas of torch 2.13 that take a file name, and names that lead to them.
BEYOND_ARRAYS = frozenset({"save", "from_file", "classes", "rpc_async", "rpc_sync", "rpc_remote"})
NAMESPACES = frozenset({"aten", "prim"})
ROOTS = frozenset({"torch", "ops"})
CUSTOM_CLASS = b"torch.classes"
DEPRECATION = r"`torch\.jit\.load` is deprecated\. Please switch to `torch\.export`\.$"
PART = re.compile(
    r"(data|constants|extra)/[\w./-]+|code/[\w./-]+\.py|(data|constants)\.pkl|version|byteorder", re.ASCII
)


def is_torchscript(path: Path) -> bool:
    """Whether a file is such an archive, by the names in it."""
    if path.suffix.lower() == ".torchscript":
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError):
        return False
    return "constants.pkl" in names and any(name.startswith("code/") for name in names)


def load_torchscript(path: Path, digest: str, device: str, stated: Stated | None = None) -> Model:
    """A network from an archive; `stated` instead of what the file states of itself in chunkflow.json.

    Raises
    ------
    ModelError : it is none, does more than compute, or takes and gives no volumes.
    """
    module, extra = read_torchscript(path, path, device)
    return probed_model(
        module,
        path,
        digest,
        device,
        stated=stated or Stated.from_dict(extra),
        kind="TorchScript",
        architecture=str(getattr(module, "original_name", "") or "program"),
    )


def read_torchscript(source: Path | BinaryIO, path: Path, device: str) -> tuple[torch.jit.ScriptModule, object]:
    """The program in evaluation mode, and what chunkflow.json in its archive says; `path` is what errors call it.

    Raises
    ------
    ModelError : it is none, or does more than compute.
    """
    torch = import_torch()
    try:
        rebuilt, extra = _rebuilt(source, path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=DEPRECATION, category=DeprecationWarning)
            module = torch.jit.load(rebuilt, map_location=device)
    except ModelError:
        raise
    except Exception as error:  # a reader in C++ raises a dozen kinds on a foreign file
        raise ModelError(
            f"{path} cannot be read as TorchScript: {files.first_line(error)}", "Export the network as .pt2 or .onnx"
        ) from error
    return module.eval(), extra


def _rebuilt(source: Path | BinaryIO, path: Path) -> tuple[io.BytesIO, object]:
    """A copy of the archive that holds nothing but known parts, with its source checked; chunkflow.json.

    A copy, so that torch, whose reader of zip files is another one, sees what was checked.
    """
    parts: dict[str, bytes] = {}
    with zipfile.ZipFile(source) as archive:
        packed = [info.file_size for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
        if sum(packed) > MOST_SOURCE:
            raise ModelError(f"{path} unpacks to more than it holds", "Write it with torch.jit.save")
        for name in archive.namelist():
            part = name.partition("/")[2]
            if PART.fullmatch(part):
                parts[part] = archive.read(name)
    for part, content in parts.items():
        if part.endswith(".py"):
            check_source(content.decode("utf-8"), path)
        elif part.endswith(".pkl") and CUSTOM_CLASS in content:
            raise _beyond(path, "a class of C++")
    rebuilt = io.BytesIO()
    with zipfile.ZipFile(rebuilt, "w", zipfile.ZIP_STORED) as archive:
        for part, content in parts.items():
            archive.writestr(f"network/{part}", content)
    rebuilt.seek(0)
    return rebuilt, json.loads(parts.get(f"extra/{EXTRA_FILE}", b"{}"))


def check_source(text: str, path: Path) -> None:
    """Refuse source that calls more than torch's operators on arrays.

    Raises
    ------
    ModelError : it does, or cannot be parsed.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ModelError(f"the source in {path} cannot be checked: {error}", "Export the network as .pt2") from error
    nodes = list(ast.walk(tree))
    owners = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.Name) and node.id in ROOTS and id(node) not in owners:
            raise _beyond(path, f"{node.id} under another name")
        for name in _names(node):
            if name in BEYOND_ARRAYS or name.startswith("ops."):
                raise _beyond(path, name)


def _names(node: ast.AST) -> Iterator[str]:
    """The names that a piece of source uses, those given to getattr and namespaces of other operators included."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        is_foreign = isinstance(node.value, ast.Name) and node.value.id == "ops" and node.attr not in NAMESPACES
        yield f"ops.{node.attr}" if is_foreign else node.attr
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (part for alias in node.names for part in alias.name.split("."))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
        yield from (str(inner.value) for inner in node.args if isinstance(inner, ast.Constant))


def _beyond(path: Path, what: str) -> ModelError:
    return ModelError(f"{path} does more than compute: it uses {what}", "Export the network as .pt2 or .onnx")
