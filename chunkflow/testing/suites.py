"""Conformance suites: hold a stage or an engine of your own to what the project promises of its own.

    check_stage([MyStage(...)], folder=tmp_path)     blocks of any size leave what one block leaves, bit for bit
    check_engine(MyEngine())                         every unit exactly once, errors in place, only a window held
    check_survives_deaths(MyEngine(), tmp_path)      a worker that dies costs its own units, and they come again

Plain functions that raise AssertionError; the text says what differs, where, and with which numbers to see it again.
Volumes are held in memory and blocks run one after the other: tens of voxels per axis, not thousands.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.errors import BlockError, InputNotFoundError
from chunkflow.geometry.box import Triple
from chunkflow.geometry.grid import Grid
from chunkflow.geometry.scale import MicrometerTriple, Scale
from chunkflow.plan.pipeline import InputOptions, OutputOptions, Pipeline, numbering_of
from chunkflow.run.engine import Engine
from chunkflow.run.result import Result
from chunkflow.stages.base import Stage
from chunkflow.stages.predict import Predict
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.omezarr_write import write_image_group
from chunkflow.storage.volume import Volume, create_array, open_array

Kind = Literal["image", "mask", "labels"]
Maker = Callable[[Triple, np.random.Generator], NDArray[Any]]

FEW_BLOCKS = 12
"""Blocks of a random grid at most, so that a case takes seconds."""


def write_volume(
    path: str | Path,
    array: NDArray[Any],
    voxel_um: MicrometerTriple = (1.0, 1.0, 1.0),
    *,
    translation_um: MicrometerTriple = (0.0, 0.0, 0.0),
) -> Volume:
    """Store (Z, Y, X) voxels as an OME-Zarr image at `path` and open it."""
    z, y, x = array.shape
    scale = Scale(voxel_um, translation_um)
    write_image_group(path, name=Path(path).stem, levels={"0": scale})
    layout = layout_for_core((64, 64, 64), (z, y, x), array.dtype)
    volume = create_array(Path(path) / "0", layout, scale)
    volume.write(volume.box, np.ascontiguousarray(array))
    return volume


# Stages.


def check_stage(
    stages: Sequence[Stage],
    *,
    folder: Path,
    kind: Kind = "image",
    make: Maker | None = None,
    cases: int = 3,
    grids: int = 2,
    seed: int = 0,
    largest: Triple = (24, 40, 40),
    voxel_um: MicrometerTriple = (0.3, 0.1, 0.1),
    options: Mapping[str, Any] | None = None,
) -> None:
    """Run stages on random volumes in one block and in random grids of blocks, and compare all that they leave.

    Parameters
    ----------
    stages : what a pipeline would list, beginning where an input of that `kind` begins; your own are registered in
        `chunkflow.plan.pipeline.STAGES`.
    folder : an empty folder for inputs and outputs.
    make : (shape, generator) -> voxels; by default smoothed noise for its kind.
    cases, grids : volumes, and grids for each of them.
    largest : voxels per axis at most; half of it at least.
    options : keys of `input:` beside `kind`, as nodata.

    Raises
    ------
    AssertionError : a result depends on the blocks.
    """
    rng = np.random.default_rng(seed)
    made = make or partial(random_volume, kind)
    pipeline = Pipeline(
        list(stages), input=InputOptions(kind=kind, **(options or {})), output=OutputOptions(save=_saved(stages, kind))
    )
    for case in range(cases):
        shape = _random_triple(rng, tuple(n // 2 for n in largest), largest)
        source = write_volume(folder / f"in{case}.ome.zarr", made(shape, rng), voxel_um)
        whole = pipeline.plan(source, folder / f"whole{case}", block=(4096, 4096, 4096)).run(on="serial")
        for number in range(grids):
            core = _random_core(rng, shape)
            parts = pipeline.plan(source, folder / f"blocks{case}-{number}", block=core).run(on="serial")
            found = differences(parts, whole)
            if found:
                raise AssertionError(
                    f"blocks of {core} over {shape} voxels leave another result than one block "
                    f"(case {case} of seed {seed}): {'; '.join(found)}. A step looks beyond what its reads() asks "
                    "for, or decides something from its block"
                )


def random_volume(kind: Kind, shape: Triple, rng: np.random.Generator) -> NDArray[Any]:
    """Smoothed noise of a kind: a uint16 image, a uint8 mask, or uint16 labels that touch, with gaps in their ids."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)
    noise /= max(float(noise.std()), 1e-9)
    if kind == "image":
        grey = 400 + 150 * noise + 5 * rng.standard_normal(shape)
        return np.asarray(np.clip(grey, 1, 60000), np.uint16)
    if kind == "mask":
        return np.asarray(noise > 0.3, np.uint8)
    z, y, x = shape
    cells = 7 * rng.integers(0, 9, [-(-n // 9) for n in shape])
    for axis in range(3):
        cells = cells.repeat(9, axis)
    return np.asarray(np.where(noise > -0.4, cells[:z, :y, :x], 0), np.uint16)


def differences(result: Result, expected: Result) -> list[str]:
    """What differs between two results, one sentence part each: arrays by their voxels, every other file by its bytes.

    How arrays are cut into files may differ, `run/` and `report.html` are not looked at.
    """
    mine, others = Path(str(result.path)), Path(str(expected.path))
    found = _array_differences(_arrays(mine), _arrays(others))
    ours, theirs = _files(mine), _files(others)
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs:
            found.append(f"{name} is only in {'the second' if name in theirs else 'the first'}")
        elif ours[name].read_bytes() != theirs[name].read_bytes():
            found.append(f"{name} differs")
    if "graph/skeleton.graphml" in ours and "graph/skeleton.graphml" in theirs:
        found += graph_differences(result.graph, expected.graph)
    return found + [
        f"{name} of the merge differs" for name in MERGES if not _equal(_left(result, name), _left(expected, name))
    ]


MERGES = ("correct-levels", "threshold", "percentiles", "graph")
"""Merges that leave more than the files show: every bin of a histogram tells of voxels that no threshold met."""


def _left(result: Result, name: str) -> Mapping[str, Any]:
    try:
        values = result.pass_values(name)
        return {key: value for key, value in values.items() if not key.endswith("_start")}  # of parts, as many as suit
    except InputNotFoundError:
        return {}


def graph_differences(graph: nx.MultiGraph[Any], expected: nx.MultiGraph[Any]) -> list[str]:
    """What differs between two graphs: nodes, edges and all that they carry, curves too; nothing is rounded."""
    found = []
    if not _equal(dict(graph.nodes(data=True)), dict(expected.nodes(data=True))):
        found.append(f"nodes differ ({graph.number_of_nodes()} and {expected.number_of_nodes()})")
    edges = [{(a, b, key): data for a, b, key, data in g.edges(keys=True, data=True)} for g in (graph, expected)]
    if not _equal(*edges):
        found.append(f"edges differ ({graph.number_of_edges()} and {expected.number_of_edges()})")
    return found


def _equal(value: Any, expected: Any) -> bool:
    if isinstance(value, Mapping):
        return value.keys() == expected.keys() and all(_equal(value[key], expected[key]) for key in value)
    return type(value) is type(expected) and bool(np.array_equal(value, expected, equal_nan=_is_float(value)))


def _is_float(value: Any) -> bool:
    return np.asarray(value).dtype.kind == "f"


def _array_differences(arrays: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> list[str]:
    found = [f"array {name} is in one of them only" for name in sorted(arrays.keys() ^ expected.keys())]
    for name in sorted(arrays.keys() & expected.keys()):
        a, b = arrays[name], expected[name]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            found.append(f"array {name} is {a.dtype} {a.shape}, not {b.dtype} {b.shape}")
        elif a.tobytes() != b.tobytes():
            unlike = a.view(f"V{a.itemsize}") != b.view(f"V{b.itemsize}")
            first = tuple(int(i) for i in np.argwhere(unlike)[0])
            found.append(
                f"array {name} differs in {int(unlike.sum())} of {a.size} voxels, first at {first}: "
                f"{a[first]} instead of {b[first]}"
            )
    return found


def _arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """Every array of a result, by its place."""
    found = {}
    for path in _array_folders(folder):
        volume = open_array(path, Scale((1.0, 1.0, 1.0)), read_only=True)
        found[str(path.relative_to(folder))] = np.ascontiguousarray(volume.read(volume.box))
    return found


def _array_folders(folder: Path) -> list[Path]:
    described = [path for path in folder.glob("*.ome.zarr/**/zarr.json") if _is_array(path)]
    return sorted(path.parent for path in [*described, *folder.glob("*.ome.zarr/**/.zarray")])


def _is_array(metadata: Path) -> bool:
    return bool(json.loads(metadata.read_text())["node_type"] == "array")


def _files(folder: Path) -> dict[str, Path]:
    """Files of a result that are neither a run's own nor part of an array."""
    arrays = _array_folders(folder)
    own = [folder / "run", folder / "report.html", *arrays]
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path
        for path in files
        if not any(path == other or other in path.parents for other in own)
    }


def _saved(stages: Sequence[Stage], kind: Kind) -> tuple[str, ...]:
    """Every array that these stages can leave."""
    keys = {stage.key for stage in stages}
    outputs = {stage.output for stage in stages if isinstance(stage, Predict)}
    numbering = numbering_of(stages)
    numbers = bool(numbering)
    made = {
        "image": kind == "image",
        "probability": "pixels" in keys or "probability" in outputs,
        "classes": "classes" in outputs,
        "mask": numbers and kind != "labels" and "apply" not in numbering,
        "labels": numbers or kind == "labels",
        "skeleton": "skeleton" in keys,
    }
    return tuple(name for name, is_made in made.items() if is_made)


def _random_triple(rng: np.random.Generator, low: Sequence[int], high: Sequence[int]) -> Triple:
    z, y, x = (int(rng.integers(a, b + 1)) for a, b in zip(low, high, strict=True))
    return z, y, x


def _random_core(rng: np.random.Generator, shape: Triple) -> Triple:
    """A core of any size that leaves more than one block, and few enough to wait for."""
    while True:
        core = _random_triple(rng, (3, 3, 3), shape)
        if 1 < len(Grid(shape, core)) <= FEW_BLOCKS:
            return core


# Engines.

UNITS = 60
FAILING = 17
"""The unit whose function raises."""


def check_engine(engine: Engine) -> None:
    """Map functions that succeed, fail and return nothing; the engine is not closed.

    Raises
    ------
    AssertionError : a unit is lost or comes twice, an error is raised instead of given back, a result is not that of
        its unit, or the engine takes all units at once.
    """
    units = _Counted(UNITS)
    outcomes = engine.map(_square_or_fail, units)
    first = next(outcomes)
    window = 8 * max(1, engine.workers) + 8
    if units.taken > window:
        raise AssertionError(
            f"{units.taken} units were taken before the first result was given back; hold a few per worker, or a "
            "million units fill the memory"
        )
    _check_outcomes([first, *outcomes], range(UNITS), failing={FAILING})
    _check_outcomes(list(engine.map(_square_or_fail, [FAILING])), [FAILING], failing={FAILING})
    _check_outcomes(list(engine.map(_square_or_fail, [5, 3, 4])), [3, 4, 5], failing=set())
    if list(engine.map(_square_or_fail, [])):
        raise AssertionError("the engine made up results of no units")
    if engine.workers < 1 or not engine.kind():
        raise AssertionError(f"an engine has workers and a compute kind, not {engine.workers} and {engine.kind()!r}")


def check_survives_deaths(engine: Engine, folder: Path) -> None:
    """Kill workers in the middle of units. For engines whose workers are processes that something starts again.

    Raises
    ------
    AssertionError : a unit is lost, or one that kills every worker takes others with it.
    """
    once = partial(_die_once, str(folder))
    _check_outcomes(list(engine.map(once, range(UNITS))), range(UNITS), failing=set())
    outcomes = list(engine.map(_die_always, range(4)))
    _check_outcomes(outcomes, range(4), failing={_DEADLY})
    blamed = dict(outcomes)[_DEADLY]
    if not isinstance(blamed, BlockError):
        raise AssertionError(
            f"a unit that kills its worker every time is a BlockError, not to be tried again: {blamed!r}"
        )


def _check_outcomes(outcomes: Sequence[tuple[int, Any]], units: Sequence[int], *, failing: set[int]) -> None:
    times = Counter(unit for unit, _ in outcomes)
    wrong = {unit: times[unit] for unit in {*units, *times} if times[unit] != (unit in units)}
    if wrong:
        raise AssertionError(f"each unit comes back exactly once; these came that often: {wrong}")
    for unit, outcome in outcomes:
        if unit in failing and not isinstance(outcome, Exception):
            raise AssertionError(f"unit {unit} failed, and the engine gave {outcome!r} instead of the error")
        if unit not in failing and outcome != unit * unit:
            raise AssertionError(f"unit {unit} came back as {outcome!r}, not as {unit * unit}")


class _Counted(Sequence[int]):
    """Units that count how many of them were taken."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0

    def __len__(self) -> int:
        return self.total

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        return range(self.total)[index]

    def __iter__(self) -> Iterator[int]:
        for unit in range(self.total):
            self.taken += 1
            yield unit


def _square_or_fail(unit: int) -> int:
    if unit == FAILING:
        raise ValueError(f"unit {unit} cannot be squared today")
    return unit * unit


def _die_once(folder: str, unit: int) -> int:
    """Every twentieth unit takes its worker with it the first time."""
    mark = Path(folder, f"died-{unit}")
    if unit % 20 == 5 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return unit * unit


_DEADLY = 2


def _die_always(unit: int) -> int:
    if unit == _DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    return unit * unit
