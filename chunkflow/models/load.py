"""Network files, read without running what is in them.

    folder      model.yaml + weights.safetensors or weights.pt      our own architecture, weights beside it
    .safetensors                                                    the same in one file, the header in its metadata
    .pt, .pth   {"architecture", "config", "state_dict"}            read with `weights_only=True`
    .pt2        torch.export                                        any architecture, as a graph of aten operators

A header is {"architecture": "unet", "config": {...}}. Weights never come from a general pickle: torch's restricted
reader builds tensors and plain containers only. `torch.export.load` has no such mode - it unpickles, evaluates
shape expressions and compiles names found in the file - so a .pt2 is first rebuilt from the parts that were checked
(`_rebuilt_program`), and torch reads only the rebuilt one.

Files are read into memory whole; a network larger than the memory does not load.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import TYPE_CHECKING, Any

import yaml

from chunkflow.errors import ModelError

if TYPE_CHECKING:
    import torch

    from chunkflow.models.unet import UNetConfig

HEADER = "model.yaml"
SAFETENSORS, PICKLED = "weights.safetensors", "weights.pt"
METADATA_KEY = "chunkflow"
EXTRA_FILE = "chunkflow.json"
KINDS = f"Give a folder with {HEADER} and {SAFETENSORS}, a .safetensors, a .pt state dict or a .pt2 (torch.export)"
RESAVE = "Save the weights again with torch.save(model.state_dict(), ...) or as safetensors; pickled modules run code"


@dataclass(frozen=True, slots=True)
class Model:
    """A network that is ready to be applied.

    module : takes (N, C, Z, Y, X) float32 and gives (N, out_channels, Z, Y, X) logits
    digest : SHA-256 (hex) of the files it came from
    stride : the network's total stride in voxels, the same on every axis
    out_channels : logits per voxel
    device : where the module lies, as torch names it
    """

    module: torch.nn.Module
    digest: str
    stride: int
    out_channels: int
    device: str


def load_model(path: str | Path, *, device: str = "cpu") -> Model:
    """Read a network from any of the forms above.

    device : "cpu", "gpu" (the current one) or a torch name such as "cuda:1"

    A .pt2 states its stride in an extra file, `extra_files={"chunkflow.json": '{"stride": 4}'}` of
    `torch.export.save`. Without one the stride is taken as 1: the lattice is not checked against it.

    Raises
    ------
    ModelError : there is no such file, it is not a network, or it would have to run code to become one.
    """
    torch = _import_torch()
    path = Path(path)
    digest = digest_of(path)
    where = "cuda" if device == "gpu" else device
    if where.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"the network is to run on {device!r}, where torch finds no GPU", "Install torch with CUDA")
    if path.suffix == ".pt2":
        return _exported(path, digest, where)
    module = _shipped(*_header_and_state(path), path).to(where)
    return Model(module, digest, module.config.stride, module.config.out_channels, where)


def save_model(model: torch.nn.Module | Mapping[str, torch.Tensor], config: UNetConfig, path: str | Path) -> None:
    """Write a network, or its state dict, so that `load_model` reads it.

    A `path` that ends in .safetensors becomes one file, any other a folder (the header is written last).
    """
    from safetensors.torch import save_file

    path = Path(path)
    state = model if isinstance(model, Mapping) else model.state_dict()
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}
    header = {"architecture": "unet", "config": config.to_dict()}
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata={METADATA_KEY: json.dumps(header)})
        return
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / SAFETENSORS)
    (path / HEADER).write_text(yaml.safe_dump(header, sort_keys=False), encoding="utf-8")


def digest_of(path: str | Path) -> str:
    """SHA-256 (hex) of the bytes that make the network: of the file, or of header and weights of a folder.

    Reads bytes only; needs no torch.

    Raises
    ------
    ModelError : the path is none of the forms that `load_model` reads.
    """
    path = Path(path)
    total = hashlib.sha256()
    for file in _files(path):
        if path.is_file():
            return _sha256(file)
        total.update(f"{file.name} {_sha256(file)}\n".encode())
    return total.hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _files(path: Path) -> list[Path]:
    """The files that make the network at `path`."""
    if path.is_file():
        if path.suffix not in (".safetensors", ".pt", ".pth", ".pt2"):
            raise ModelError(f"{path} is not a network file", KINDS)
        return [path]
    if not path.is_dir():
        raise ModelError(f"there is no network at {path}", KINDS)
    weights = [file for name in (SAFETENSORS, PICKLED) if (file := path / name).is_file()]
    if not weights or not (path / HEADER).is_file():
        raise ModelError(f"the folder {path} does not hold {HEADER} and {SAFETENSORS} or {PICKLED}", KINDS)
    return [path / HEADER, weights[0]]


def _import_torch() -> ModuleType:
    try:
        import_module("safetensors")
        return import_module("torch")
    except ImportError as error:
        raise ModelError(
            f"a network needs torch and safetensors: {error}", "Run: pip install 'chunkflow-engine[models]'"
        ) from error


def _header_and_state(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What the network is, and its weights."""
    file = _files(path)[-1]
    try:
        if file.suffix == ".safetensors":
            header, state = _read_safetensors(file)
        else:
            header, state = _read_restricted(file)
        if path.is_dir():
            header = yaml.safe_load((path / HEADER).read_text(encoding="utf-8"))
    except UnpicklingError as error:
        raise ModelError(f"{path} is damaged, or more than weights: reading it would run code", RESAVE) from error
    except Exception as error:  # whatever a reader raises on a foreign file (a dozen kinds) means the same here
        raise ModelError(f"{path} cannot be read as a network: {_first_line(error)}", RESAVE) from error
    if not isinstance(header, Mapping) or not isinstance(header.get("config"), Mapping):
        raise ModelError(
            f"{path} does not say what its weights belong to",
            "Give it a header {architecture: unet, config: {...}}, or write it with chunkflow.models.save_model",
        )
    if not isinstance(state, Mapping):
        raise ModelError(f"the weights of {path} are a {type(state).__name__}, not a state dict", RESAVE)
    return header, state


def _read_safetensors(file: Path) -> tuple[Any, Any]:
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata() or {}
    return json.loads(metadata.get(METADATA_KEY, "null")), load_file(file)


def _read_restricted(file: Path) -> tuple[Any, Any]:
    """Header and weights of a .pt; the file itself as weights where it is no such pair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols, just before the error that says what matters
        content = _import_torch().load(file, map_location="cpu", weights_only=True)
    if isinstance(content, Mapping) and "state_dict" in content:
        return content, content["state_dict"]
    return None, content


def _shipped(header: Mapping[str, Any], state: Mapping[str, Any], path: Path) -> Any:
    """The network that the header describes, with these weights, in float32 and evaluation mode.

    Built without memory of its own and given the file's tensors only after their shapes were compared, so a header
    that declares a huge network costs nothing.
    """
    torch = _import_torch()
    from chunkflow.models.unet import UNet, UNetConfig

    architecture = header.get("architecture", "unet")
    if architecture != "unet":
        raise ModelError(f"{path} is of architecture {architecture!r}", "Known: unet; export others as .pt2")
    with torch.device("meta"):
        module = UNet(UNetConfig.from_dict(header["config"]))
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    found = {key: _shape(value) for key, value in state.items()}
    wrong = sorted(str(key) for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if wrong:
        key = wrong[0]
        raise ModelError(
            f"{len(wrong)} weights of {path} do not fit its config, first {key}: "
            f"{found.get(key, 'missing')} where {wanted.get(key, 'nothing')} belongs",
            "Give the config that the weights were trained with",
        )
    module.load_state_dict(state, assign=True)
    return module.float().requires_grad_(False).eval()


def _shape(value: object) -> tuple[int, ...] | None:
    """Of an ordinary tensor; None for anything else, which fits nowhere."""
    torch = _import_torch()
    plain = isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized
    return tuple(value.shape) if plain else None  # type: ignore[attr-defined]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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


def _exported(path: Path, digest: str, device: str) -> Model:
    torch = _import_torch()
    try:
        rebuilt, extra, out_channels = _rebuilt_program(path)
        program = torch.export.load(rebuilt)
        if device != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        module = program.module()
        stride = int(extra.get("stride", 1))
    except ModelError:
        raise
    except Exception as error:  # as in _header_and_state
        raise ModelError(
            f"{path} cannot be read as an exported program: {_first_line(error)}",
            f"Export it again with torch {torch.__version__}",
        ) from error
    return Model(module, digest, stride, out_channels, device)


def _rebuilt_program(path: Path) -> tuple[io.BytesIO, dict[str, Any], int]:
    """A copy of a torch.export archive that holds nothing but checked parts; our extra file; the output's channels.

    Left out: example inputs (a pickle), guards (Python source), metadata and everything unknown. Refused: pickled
    weights or constants, compiled libraries, operators outside aten, names and expressions with more than they need.
    """
    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
            raise ModelError(f"{path} unpacks to more than it holds", "Write it with torch.export.save")
        files = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    if "models/model.json" not in files:
        raise ModelError(f"{path} holds no exported program named model", "Write it with torch.export.save")
    program = json.loads(files["models/model.json"])
    program["guards_code"] = []
    graph = program["graph_module"]
    graph["metadata"], graph["treespec_namedtuple_fields"] = {}, {}
    graph["module_call_graph"] = graph["module_call_graph"][:1]
    for node in graph["graph"]["nodes"]:
        node["metadata"] = {}
    _check_program(program, path)

    kept = {"models/model.json": json.dumps(program).encode(), "data/sample_inputs/model.pt": b""}
    kept |= {name: files[name] for name in ("archive_format", "archive_version", "byteorder", ".data/version")}
    for kind, prefix in (("weights", "weight_"), ("constants", "tensor_")):
        index = f"data/{kind}/model_{kind}_config.json"
        config = json.loads(files[index])
        _check_program(config, path)
        kept[index] = json.dumps(config).encode()
        for name, entry in config["config"].items():
            if entry["use_pickle"] is not False or not re.fullmatch(rf"{prefix}\d+", entry["path_name"]):
                raise _unsafe(path, f"{name} stored as a pickle")
            kept[f"data/{kind}/{entry['path_name']}"] = files[f"data/{kind}/{entry['path_name']}"]

    rebuilt = io.BytesIO()
    with zipfile.ZipFile(rebuilt, "w", zipfile.ZIP_STORED) as archive:
        for name, content in kept.items():
            archive.writestr(f"model/{name}", content)
    rebuilt.seek(0)
    extra = json.loads(files.get(f"extra/{EXTRA_FILE}", b"{}"))
    return rebuilt, extra, _output_channels(graph, path)


def _output_channels(graph: Mapping[str, Any], path: Path) -> int:
    outputs = graph["graph"]["outputs"]
    try:
        (output,) = outputs
        sizes = graph["graph"]["tensor_values"][output["as_tensor"]["name"]]["sizes"]
        _, channels, _, _, _ = sizes
        return int(channels["as_int"])
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"{path} does not give one array (N, channels, Z, Y, X) with a fixed number of channels",
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
    torch = _import_torch()
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
