"""Programs of torch.export (.pt2): any architecture, as a graph of aten operators.

`torch.export.load` has no restricted mode: it unpickles, evaluates shape expressions and compiles names found in the
file. So a .pt2 is first rebuilt from the parts that were checked (`_rebuilt_program`), and torch reads only that.

Its extra file chunkflow.json states what no operator tells: {"stride": 8, "upsampling": 1, "usage": {...}}.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chunkflow.errors import ModelError
from chunkflow.models import files
from chunkflow.models.adapters import batches_of
from chunkflow.models.model import EXTRA_FILE, Model, Sides, Stated, import_torch

# What a .pt2 may say. Everything else in it is refused: torch would call, import, evaluate or compile it.
_OPERATOR = re.compile(r"torch\.ops\.aten\.(?!from_file\.)(?!.*__)(\w+)\.(\w+)")
_ARITHMETIC = re.compile(r"_operator\.(eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|mod|truediv|and_|or_|getitem)")
_PLAIN_TEXT = re.compile(r"[\w.+-]*", re.ASCII)
_SHAPE_TEXT = re.compile(r"[\w\s(),='-]*", re.ASCII)
_SHAPE_WORD = re.compile(
    r"[a-z]{1,4}\d+|\d+|Symbol|Integer|positive|integer|nonnegative|True|False|Mul|Add|Pow|Max|Min|Mod|PythonMod"
    r"|FloorDiv|CleanDiv|CeilDiv|ModularIndexing|Eq|Ne|Ge|Gt|Le|Lt|And|Or|Not"
)
_RUNS_CODE = ("as_graph", "as_custom_obj", "as_operator", "as_string_to_argument")


@dataclass(frozen=True, slots=True)
class _Shapes:
    """What the graph says of its input and output."""

    batch: int | None
    in_channels: int
    patch: Sides
    out_channels: int


def load_exported(path: Path, digest: str, device: str, stated: Stated | None = None) -> Model:
    """A network from a .pt2.

    stated : instead of what the file states of itself

    Raises
    ------
    ModelError : it is none, or holds what could run code.
    """
    torch = import_torch()
    try:
        rebuilt, extra, shapes = _rebuilt_program(path)
        program = torch.export.load(rebuilt)
        if device != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        module = program.module()
    except ModelError:
        raise
    except Exception as error:  # whatever a reader raises on a foreign file (a dozen kinds) means the same here
        raise ModelError(
            f"{path} cannot be read as an exported program: {files.first_line(error)}",
            f"Export it again with torch {torch.__version__}",
        ) from error
    stated = stated or Stated.from_dict(extra)
    return Model(
        module if shapes.batch is None else batches_of(module, shapes.batch),
        digest,
        stated.stride,
        shapes.out_channels,
        device,
        in_channels=shapes.in_channels,
        upsampling=stated.upsampling,
        usage=stated.usage,
        kind="torch.export",
        architecture="graph of aten operators",
        patch=shapes.patch,
        patch_min=stated.stride,
    )


def _rebuilt_program(path: Path) -> tuple[io.BytesIO, Any, _Shapes]:
    """A copy of a torch.export archive that holds nothing but checked parts; our extra file; input and output.

    Left out: example inputs (a pickle), guards (Python source), metadata and everything unknown. Refused: pickled
    weights or constants, compiled libraries, operators outside aten, names and expressions with more than they need.
    """
    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
            raise ModelError(f"{path} unpacks to more than it holds", "Write it with torch.export.save")
        parts = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    if "models/model.json" not in parts:
        raise ModelError(f"{path} holds no exported program named model", "Write it with torch.export.save")
    program = json.loads(parts["models/model.json"])
    program["guards_code"] = []
    graph = program["graph_module"]
    graph["metadata"], graph["treespec_namedtuple_fields"] = {}, {}
    graph["module_call_graph"] = graph["module_call_graph"][:1]
    for node in graph["graph"]["nodes"]:
        node["metadata"] = {}
    _check_program(program, path)

    kept = {"models/model.json": json.dumps(program).encode(), "data/sample_inputs/model.pt": b""}
    kept |= {name: parts[name] for name in ("archive_format", "archive_version", "byteorder", ".data/version")}
    for kind, prefix in (("weights", "weight_"), ("constants", "tensor_")):
        index = f"data/{kind}/model_{kind}_config.json"
        config = json.loads(parts[index])
        _check_program(config, path)
        kept[index] = json.dumps(config).encode()
        for name, entry in config["config"].items():
            if entry["use_pickle"] is not False or not re.fullmatch(rf"{prefix}\d+", entry["path_name"]):
                raise _unsafe(path, f"{name} stored as a pickle")
            kept[f"data/{kind}/{entry['path_name']}"] = parts[f"data/{kind}/{entry['path_name']}"]

    rebuilt = io.BytesIO()
    with zipfile.ZipFile(rebuilt, "w", zipfile.ZIP_STORED) as archive:
        for name, content in kept.items():
            archive.writestr(f"model/{name}", content)
    rebuilt.seek(0)
    extra = json.loads(parts.get(f"extra/{EXTRA_FILE}", b"{}"))
    return rebuilt, extra, _shapes(graph, path)


def _shapes(graph: Mapping[str, Any], path: Path) -> _Shapes:
    """Sizes that are numbers in the graph; None where they are free."""
    tensors = graph["graph"]["tensor_values"]
    try:
        (taken,) = [spec["user_input"]["arg"] for spec in graph["signature"]["input_specs"] if "user_input" in spec]
        (given,) = graph["graph"]["outputs"]
        batch, in_channels, z, y, x = (size.get("as_int") for size in tensors[taken["as_tensor"]["name"]]["sizes"])
        _, out_channels, _, _, _ = tensors[given["as_tensor"]["name"]]["sizes"]
        return _Shapes(batch, int(in_channels), (z, y, x), int(out_channels["as_int"]))
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(
            f"{path} does not take and give one array (N, channels, Z, Y, X) each, with fixed numbers of channels",
            "Export a network that does",
        ) from error


def _check_program(program: Any, path: Path) -> None:
    """Refuse every text that torch would turn into code."""
    for key, text in _texts(program):
        if key in _RUNS_CODE:
            raise _unsafe(path, key)
        if key == "target":
            good = _is_operator(text)
        elif key == "expr_str":
            good = _is_shape(text)
        elif key in ("in_spec", "out_spec"):
            good = _is_plain_tree(json.loads(text)[1])
        else:
            good = _PLAIN_TEXT.fullmatch(text) is not None
        if not good:
            raise _unsafe(path, f"{key} {text[:80]!r}")


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in parsed JSON with the key it stands under; keys themselves under "name"."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for inner, item in value.items():
            yield (inner, inner) if inner in _RUNS_CODE else ("name", inner)
            yield from _texts(item, inner)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)


def _is_operator(target: str) -> bool:
    """Whether a call in the graph is plain arithmetic or an aten operator (not a Python function torch can see)."""
    found = _OPERATOR.fullmatch(target)
    if found is None:
        return _ARITHMETIC.fullmatch(target) is not None
    torch = import_torch()
    packet = getattr(torch.ops.aten, found[1], None)
    return isinstance(getattr(packet, found[2], None), torch._ops.OpOverload)


def _is_shape(expression: str) -> bool:
    """Whether a shape is integers, symbols and known functions of them (torch hands it to `eval` through sympy)."""
    words = re.findall(r"\w+", expression)
    return _SHAPE_TEXT.fullmatch(expression) is not None and all(map(_SHAPE_WORD.fullmatch, words))


def _is_plain_tree(tree: Mapping[str, Any]) -> bool:
    """Whether arguments are nested tuples, lists and dicts alone; other types import the module they name."""
    names = json.loads(tree["context"] or "null") or []
    plain = isinstance(names, list) and all(isinstance(name, str) and _PLAIN_TEXT.fullmatch(name) for name in names)
    known = tree["type"] in (None, "builtins.tuple", "builtins.list", "builtins.dict")
    return plain and known and all(map(_is_plain_tree, tree["children_spec"]))


def _unsafe(path: Path, what: str) -> ModelError:
    return ModelError(f"{path} holds what could run code when it is loaded: {what}", "Get it as safetensors instead")
