"""Packages of the BioImage Model Zoo (bioimage.io): a folder or .zip with rdf.yaml, formats 0.4 and 0.5.

`bioimageio.spec` parses the description, older formats included, without looking at any file and without the network.
What it says becomes a `Model`:

    axes b c z y x           as they are          pre-, postprocessing    `zoo_processing`
    axes b c y x             plane by plane       size: min + n * step    patch_min, stride
    scale of the output      upsampling           halo                    Model.halo, the usual margin

Weights are taken from the first entry that can be loaded: pytorch_state_dict of our own architecture, torchscript, then
onnx. Architectures in a package are programs, and are never imported.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from chunkflow.errors import ModelError
from chunkflow.models import shipped
from chunkflow.models.adapters import Network, planes, probe, probe_sides
from chunkflow.models.files import Package, first_line, is_package
from chunkflow.models.model import Model, Sides, Triple, import_extra, usage_of
from chunkflow.models.onnx import read_onnx
from chunkflow.models.torchscript import read_torchscript
from chunkflow.models.usage import Usage
from chunkflow.models.zoo_processing import After, Before, after, before, with_arithmetic
from chunkflow.models.zoo_write import OUR_CALLABLE, OUR_MODULE, write_package

__all__ = ["described", "is_package", "load_package", "write_package"]

UM = {"picometer": 1e-6, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3}
LETTERS = {"batch": "b", "channel": "c", "z": "z", "y": "y", "x": "x"}
MOST_PROBED = 2**20
FORMATS = ("0.4", "0.5")
KNOWN_AXES = ("bczyx", "bcyx")
ENTRIES = "Ask for weights as torchscript or onnx; architectures in a package are programs and are not run"


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a description says of sizes, for z, y, x; planes have 1 along z."""

    axes: str
    stride: Triple
    patch: Sides
    patch_min: Triple
    upsampling: Triple
    halo: Triple | None
    in_channels: int
    out_channels: int


def load_package(path: Path, digest: str, device: str) -> Model:
    """The network of a package.

    Raises
    ------
    ModelError : the package is damaged or incomplete, or asks for what cannot be done here.
    """
    package = Package(path)
    description = described(package)
    taken, given = description.inputs[0], description.outputs[0]
    geometry = geometry_of(taken, given, path)
    first = before(taken.preprocessing, str(taken.id), frozenset(geometry.axes[2:]), geometry.in_channels)
    last = after(given.postprocessing)
    usage = _usage(taken, given, first, last)
    entries = package.entries()
    if _is_ours(description) and package.has(_source(entries["pytorch_state_dict"])):
        return _ours(package, description, digest, device, geometry, usage)
    kind, network, patch = _foreign(package, entries, device, geometry)
    geometry = replace(geometry, patch=patch)
    network = with_arithmetic(network, first.arithmetic, last.arithmetic)
    _check_channels(network, path, device, geometry)
    return Model(
        network,
        digest,
        geometry.stride,
        geometry.out_channels,
        device,
        in_channels=geometry.in_channels,
        upsampling=geometry.upsampling,
        usage=usage,
        kind=f"BioImage Model Zoo, {kind}",
        architecture=str(description.name),
        patch=geometry.patch,
        patch_min=geometry.patch_min,
        halo=geometry.halo,
    )


def described(package: Package) -> Any:
    """The description in the words of format 0.5, whatever format it is written in.

    Raises
    ------
    ModelError : it is no model, of a later format, or wrong; it takes or gives several arrays.
    """
    spec = import_extra("bioimageio.spec")
    import_extra("loguru").logger.disable("pydantic")  # where the specification's notes for its makers come from
    content = dict(package.description)
    if content.get("type") != "model":
        raise ModelError(f"{package.path} is a {content.get('type')!r}, not a model", "Give the package of a network")
    version = str(content.get("format_version"))
    if version.rpartition(".")[0] not in FORMATS:
        raise ModelError(f"{package.path} is of format {version}", f"Known: {', '.join(FORMATS)}")
    tensors = content.get("inputs")
    if isinstance(tensors, list) and any(isinstance(one, Mapping) and "output_of" in one for one in tensors):
        raise ModelError(f"{package.path} takes the output of another network", "Give a network that takes images")
    for name in ("parent", "training_data", "uploader", "maintainers"):  # of no use here, and on the network
        content.pop(name, None)
    context = spec.ValidationContext(perform_io_checks=False, log_warnings=False)
    try:
        description = spec.build_description(content, context=context, format_version="latest")
    except Exception as error:  # a validator that meets what its makers did not think of
        raise _wrong(package, first_line(error)) from error
    if isinstance(description, spec.InvalidDescr):
        raise _wrong(package, _first_error(description))
    if len(description.inputs) != 1 or len(description.outputs) != 1:
        raise ModelError(
            f"{package.path} takes {len(description.inputs)} arrays and gives {len(description.outputs)}, not one each",
            "Give a network of one of each",
        )
    return description


def _wrong(package: Package, why: str) -> ModelError:
    return ModelError(
        f"{package.path / package.description_name} is wrong: {why.rstrip('.')}", "Get the package from who made it"
    )


def _first_error(description: Any) -> str:
    for detail in description.validation_summary.details:
        for error in detail.errors:
            place = ".".join(map(str, error.loc)) or "it"
            return f"{place}: {error.msg.strip().splitlines()[0]}"
    return "it does not follow the format"


def geometry_of(taken: Any, given: Any, path: Path) -> Geometry:
    """Sizes, from the axes of the input and the output.

    Raises
    ------
    ModelError : axes or sizes are other than those of volumes or planes.
    """
    axes = _letters(taken.axes)
    if axes not in KNOWN_AXES or _letters(given.axes) != axes:
        raise ModelError(
            f"{path} takes axes {axes} and gives {_letters(given.axes)}", f"Known: {', '.join(KNOWN_AXES)}, for both"
        )
    space = {str(axis.id): axis for axis in taken.axes if axis.type == "space"}
    output = {str(axis.id): axis for axis in given.axes if axis.type == "space"}
    sizes = {name: _size(axis, taken, path) for name, axis in space.items()}
    finer = {name: _finer(axis, space[name], given, path) for name, axis in output.items()}
    halo = {name: int(getattr(axis, "halo", 0)) for name, axis in output.items()}
    fixed = {name: side for name, (side, _, _) in sizes.items()}
    return Geometry(
        axes=axes,
        stride=_along({name: step for name, (_, step, _) in sizes.items()}, 1),
        patch=(fixed.get("z"), fixed["y"], fixed["x"]),
        patch_min=_along({name: least for name, (_, _, least) in sizes.items()}, 1),
        upsampling=_along(finer, 1),
        halo=_along(halo, 0) if any(halo.values()) else None,
        in_channels=_channels(taken),
        out_channels=_channels(given),
    )


def _letters(axes: Sequence[Any]) -> str:
    """bczyx and the like; other axes by their names in brackets."""
    names = [("c" if axis.type == "channel" else str(axis.id)) for axis in axes]
    return "".join(LETTERS.get(name, name if name == "c" else f"[{name}]") for name in names)


def _channels(tensor: Any) -> int:
    (axis,) = [axis for axis in tensor.axes if axis.type == "channel"]
    return int(axis.size)


def _along(values: Mapping[str, int], other: int) -> Triple:
    return values.get("z", other), values.get("y", other), values.get("x", other)


def _size(axis: Any, tensor: Any, path: Path) -> tuple[int | None, int, int]:
    """The size that an axis insists on, its step, its smallest size."""
    size = axis.size
    if hasattr(size, "axis_id"):
        others = [one for one in tensor.axes if str(one.id) == str(size.axis_id) and one.type == "space"]
        if str(size.tensor_id) != str(tensor.id) or len(others) != 1 or size.offset or others[0].scale != axis.scale:
            raise ModelError(f"the size of {axis.id} of {path} depends on another array", "Give another network")
        return _size(others[0], tensor, path)
    if isinstance(size, int):
        return size, 1, size
    if size.min % size.step:
        raise ModelError(
            f"{axis.id} of {path} may be {size.min} + n * {size.step} long, never a multiple of {size.step}",
            "Give a network whose sizes are multiples of its step",
        )
    return None, int(size.step), int(size.min)


def _finer(axis: Any, source: Any, given: Any, path: Path) -> int:
    """Voxels of the output per voxel of the input."""
    if isinstance(axis.size, int):
        ratio = axis.size / source.size if isinstance(source.size, int) else 0
    else:
        same = str(axis.size.axis_id) == str(source.id) or axis.size.axis_id == getattr(source.size, "axis_id", None)
        ratio = source.scale / axis.scale if same and not axis.size.offset else 0
    if ratio < 1 or round(ratio, 6) != round(ratio):
        raise ModelError(
            f"{axis.id} of {path} is not as long in the output {given.id} as in the input, or whole times that",
            "Give a network that keeps the shape",
        )
    return round(ratio)


def _usage(taken: Any, given: Any, first: Before, last: After) -> Usage:
    names, inputs = (
        [str(name) for axis in tensor.axes if axis.type == "channel" for name in axis.channel_names]
        for tensor in (given, taken)
    )
    space = {str(axis.id): axis for axis in taken.axes if axis.type == "space"}
    voxel_um = None
    if set(space) == {"z", "y", "x"} and all(axis.unit in UM for axis in space.values()):
        z, y, x = (float(space[name].scale * UM[space[name].unit]) for name in "zyx")
        voxel_um = (z, y, x)
    return Usage(
        normalization=first.normalization,
        activation=last.activation,
        outputs=tuple(names),
        inputs=() if all(re.fullmatch(r"channel_?\d+", name) for name in inputs) else tuple(inputs),
        threshold=last.threshold,
        voxel_um=voxel_um,
    )


def _is_ours(description: Any) -> bool:
    """Whether there is a state dict that is said to belong to the architecture we ship; nothing is imported."""
    entry = description.weights.pytorch_state_dict
    architecture = None if entry is None else entry.architecture
    place = (getattr(architecture, "import_from", None), str(getattr(architecture, "callable", "")))
    return place == (OUR_MODULE, OUR_CALLABLE)


def _ours(package: Package, description: Any, digest: str, device: str, geometry: Geometry, usage: Usage) -> Model:
    """A package that we wrote, or that names our architecture."""
    entry = package.entries()["pytorch_state_dict"]
    state = shipped.read_restricted(io.BytesIO(_content(package, entry)), package.path)
    config = dict(description.weights.pytorch_state_dict.architecture.kwargs)
    asinh = config.pop("asinh", None)
    stated = _our_config(package).get("usage")
    if stated is not None:
        usage = usage_of(stated)
    elif asinh is not None:
        usage = replace(usage, normalization=replace(usage.normalization, asinh=asinh))
    header = {"config": config}
    model = shipped.model_of(header, state, package.path, digest, device, kind="BioImage Model Zoo, pytorch_state_dict")
    if (model.in_channels, model.out_channels) != (geometry.in_channels, geometry.out_channels):
        raise ModelError(
            f"{package.path} describes {geometry.in_channels} channels in and {geometry.out_channels} out, its network "
            f"has {model.in_channels} and {model.out_channels}",
            "Get the package from who made it",
        )
    return replace(model, usage=usage, halo=geometry.halo)


def _our_config(package: Package) -> Mapping[str, Any]:
    """What rdf.yaml says under config: chunkflow."""
    config = package.description.get("config")
    ours = config.get("chunkflow") if isinstance(config, Mapping) else None
    return ours if isinstance(ours, Mapping) else {}


def _foreign(
    package: Package, entries: Mapping[str, Mapping[str, Any]], device: str, geometry: Geometry
) -> tuple[str, Network, Sides]:
    """A network for volumes from the first entry that can be loaded, and the sides that it insists on."""
    forms = [form for form in ("torchscript", "onnx") if form in entries]
    if not forms:
        raise ModelError(f"{package.path} has its weights as {', '.join(entries) or 'nothing'} only", ENTRIES)
    form = next((form for form in forms if package.has(_source(entries[form]))), forms[0])
    content = _content(package, entries[form])
    if form == "torchscript":
        module, _ = read_torchscript(io.BytesIO(content), package.path, device)
        return form, planes(module) if geometry.axes == "bcyx" else module, geometry.patch
    graph = read_onnx(content, package.read, package.path, device)
    z, y, x = (told or found for told, found in zip(geometry.patch, graph.patch, strict=True))
    return form, graph.network, (z, y, x)


def _source(entry: Mapping[str, Any]) -> str:
    return str(entry.get("source", ""))


def _content(package: Package, entry: Mapping[str, Any]) -> bytes:
    return package.read(_source(entry), digest=entry.get("sha256"))


def _check_channels(network: Network, path: Path, device: str, geometry: Geometry) -> None:
    """The network takes and gives the channels that its description says; on a small patch, if it takes one."""
    free = probe_sides(geometry.stride, geometry.patch_min)
    z, y, x = (told or side for told, side in zip(geometry.patch, free, strict=True))
    if geometry.axes == "bcyx":
        z = 1
    if prod((z, y, x)) > MOST_PROBED:
        return  # the first block tells
    _, found = probe(
        network, path, (z, y, x), upsampling=geometry.upsampling, device=device, in_channels=geometry.in_channels
    )
    if found != geometry.out_channels:
        raise ModelError(
            f"{path} gives {found} channels and describes {geometry.out_channels}", "Get the package from who made it"
        )
