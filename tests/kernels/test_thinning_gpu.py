"""The thinning kernels of the GPU against those of the CPU: the very C source, compiled for this machine.

Kernels know neither barriers nor atomics: each thread reads bytes and writes its own. So the source is compiled as a
plain function here and called once per thread number, in a shuffled order, by several threads of the machine at once.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow import backend
from chunkflow.errors import UsageError
from chunkflow.geometry.box import Box
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import thinning, thinning_gpu
from chunkflow.kernels.distance import UNKNOWN, squared_distance
from chunkflow.kernels.thinning import OPEN
from chunkflow.stages import skeleton
from chunkflow.stages.base import Region, View
from chunkflow.stages.skeleton import Thin

Triple = tuple[int, int, int]
Labels = NDArray[np.unsignedinteger[Any]]
Kernels = tuple[Callable[..., None], Callable[..., None]]

COMPILER = shutil.which("gcc") or shutil.which("cc")

HOST = """
static _Thread_local long long thread_number;
#define THREAD thread_number
#define KERNEL static void
"""

CALLS = """
void run_list_neighbours(const long long *order, long long from, long long to, long long count, const int *a,
    const byte *b, const LABEL *c, const int *d, const long long *e, const long long *f, const long long *g,
    unsigned *h, unsigned *i)
{
    for (; from < to; from++) {
        thread_number = order[from];
        list_neighbours(count, a, b, c, d, e, f, g, h, i);
    }
}

void run_look(const long long *order, long long from, long long to, long long count, const int *a, const unsigned *b,
    const unsigned *c, const byte *d, const long long *e, int f, int g, int h, byte *i, byte *j, byte *k, byte *l,
    byte *m)
{
    for (; from < to; from++) {
        thread_number = order[from];
        look(count, a, b, c, d, e, f, g, h, i, j, k, l, m);
    }
}
"""


class Machine:
    """Compiles the source for a type of labels and launches it on threads of this machine."""

    def __init__(self, folder: Path, workers: int = 3) -> None:
        self.folder, self.workers, self.launches = folder, workers, 0
        self.rng = np.random.default_rng(0)
        self.pool = ThreadPoolExecutor(workers)
        self.libraries: dict[str, ctypes.CDLL] = {}

    def kernels(self, label: np.dtype[Any]) -> Kernels:
        library = self.libraries.get(label.str) or self._compile(label)
        self.libraries[label.str] = library

        def launcher(name: str) -> Callable[..., None]:
            function = getattr(library, f"run_{name}")
            function.restype = None

            def launch(count: int, *arguments: Any) -> None:
                self.launches += 1
                given = [ctypes.c_int(int(a)) if np.ndim(a) == 0 else _pointer(a) for a in arguments]
                order = self.rng.permutation(count + 5)  # a launch has a few threads too many
                ends = [ctypes.c_longlong(int(n)) for n in np.linspace(0, len(order), self.workers + 1)]
                parts = [
                    self.pool.submit(function, _pointer(order), a, b, ctypes.c_longlong(count), *given)
                    for a, b in pairwise(ends)
                ]
                for part in parts:
                    part.result()

            return launch

        return launcher("list_neighbours"), launcher("look")

    def _compile(self, label: np.dtype[Any]) -> ctypes.CDLL:
        source = self.folder / f"kernel-{label.itemsize}.c"
        source.write_text(thinning_gpu.constants(label) + HOST + thinning_gpu.SOURCE + CALLS)
        built = source.with_suffix(".so")
        flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wno-sign-compare", "-Wno-parentheses", "-Werror"]
        subprocess.run([COMPILER, *flags, "-shared", "-fPIC", source, "-o", built], check=True)  # type: ignore[list-item]
        return ctypes.CDLL(str(built))


def _pointer(array: NDArray[Any]) -> Any:
    assert array.flags.c_contiguous
    return array.ctypes.data_as(ctypes.c_void_p)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if COMPILER is None:
        pytest.skip("no C compiler (gcc or cc) on this machine")
    made = Machine(tmp_path_factory.mktemp("kernel"))
    yield made
    made.pool.shutdown()


def phantom(seed: int) -> Labels:
    """Tubes, blobs, plates, noise and full boxes of an odd shape, some cut into touching labels of any type."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1 if seed % 7 == 0 else 9, 30, 3))
    z, y, x = np.indices(shape)
    kind = seed % 6
    if kind == 0:
        axis = np.zeros(shape, np.bool_)
        for _ in range(6):
            a, b = rng.uniform(0, 1, (2, 3)) * (np.array(shape) - 1)
            line = np.rint(np.linspace(a, b, 60)).astype(int)
            axis[tuple(line.T)] = True
        mask = ndimage.distance_transform_edt(~axis) <= rng.uniform(0, 3.5)
    elif kind == 1:
        mask = ndimage.gaussian_filter(rng.normal(size=shape), 2) > 0.05
    elif kind == 2:
        mask = abs(z * 0.96 - y * 0.28 - 0.3 * shape[0]) <= rng.uniform(0.5, 3)
    elif kind == 3:
        mask = rng.random(shape) < rng.uniform(0.3, 0.9)
    elif kind == 4:
        mask = np.ones(shape, np.bool_)
    else:
        mask = abs(np.sqrt((z - 10) ** 2 + (y - 12) ** 2 + (x - 11.0) ** 2) - 7) < rng.uniform(1, 3)
    dtype = (np.uint8, np.uint16, np.uint32, np.uint64)[seed // 6 % 4]
    parts = rng.integers(1, 6)
    seeds = rng.uniform(0, 1, (parts, 3)) * shape
    nearest = np.argmin([sum((g - c) ** 2 for g, c in zip((z, y, x), s, strict=True)) for s in seeds], axis=0)
    return np.where(mask, nearest.astype(dtype) + dtype(np.iinfo(dtype).max - 6), dtype(0))


def both(machine: Machine, labels: Any, distance2: NDArray[np.int32], weights: Triple, **settings: Any) -> None:
    """Compare histories, and where an open voxel goes on."""
    cpu = thinning.thin(labels, distance2, weights=weights, **settings)
    gpu = thinning_gpu.thin(labels, distance2, kernels=machine.kernels(labels.dtype), **settings)
    np.testing.assert_array_equal(gpu.history, cpu.history)
    assert (gpu.start is None) == (cpu.start is None)
    if cpu.start is not None and gpu.start is not None:
        still = cpu.history == OPEN
        np.testing.assert_array_equal(gpu.start[still], cpu.start[still])


def case(machine: Machine, seed: int) -> None:
    """A phantom as a whole or as a crop, with exact distances or some of them unknown, for a random origin."""
    rng = np.random.default_rng(seed)
    labels = phantom(seed)
    weights: Triple = ((1, 1, 1), (4, 1, 1), (9, 4, 1))[seed % 3]
    distance2 = squared_distance(labels, weights=weights)
    settings: dict[str, Any] = {
        "origin": tuple(int(n) for n in rng.integers(0, 9, 3)),
        "open_borders": rng.random((3, 2)) < (0, 0.5, 1)[seed // 2 % 3],
        "t0": int(rng.integers(0, 3)),
        "passes": int(rng.choice([1, 2, 5, 253])) if seed % 5 == 0 else 253,
    }
    if seed % 4 == 3:
        distance2[(labels > 0) & (rng.random(labels.shape) < 0.05)] = UNKNOWN
    both(machine, labels, distance2, weights, **settings)


@pytest.mark.parametrize("seeds", [range(n, n + 12) for n in range(0, 72, 12)], ids=lambda seeds: f"{seeds[0]}..")
def test_histories_equal_the_cpus_whatever_the_order_of_threads(machine: Machine, seeds: range) -> None:
    for seed in seeds:
        case(machine, seed)


@pytest.mark.parametrize("seed", [*range(12), 648, 856, 1026, 1315, 2298, 2484, 5213, 7216])
def test_voxels_that_may_be_anchored_already_are_not_deleted(machine: Machine, seed: int) -> None:
    """Keys that are no distances reach what masks hardly do; the later seeds are those of the CPU's test of this."""
    rng = np.random.default_rng(seed)
    density, hidden, largest = (0.5, 0.6, 0.7)[seed % 3], (0.05, 0.1)[seed // 3 % 2], (3, 20)[seed // 6 % 2]
    labels = (rng.random((12, 13, 14)) < density).astype(np.uint8)
    keys = np.where(labels, rng.integers(1, largest + 1, labels.shape), 0).astype(np.int32)
    partly = np.where((labels > 0) & (rng.random(labels.shape) < hidden), np.int32(UNKNOWN), keys)
    both(machine, labels, partly, (1, 1, 1), origin=(0, 0, 0), open_borders=np.zeros((3, 2), np.bool_), t0=0)


def test_a_pass_that_is_not_over_yet_does_not_end_the_launches(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look per launch, and how far they are is looked at after each: no pass is complete at most of them."""
    monkeypatch.setattr(thinning_gpu, "ROUNDS", 1)
    monkeypatch.setattr(thinning_gpu, "LAUNCHES", 1)
    for seed in range(36):
        case(machine, seed)


@pytest.mark.slow
def test_histories_equal_the_cpus_on_a_thousand_phantoms(machine: Machine) -> None:
    for seed in range(1000, 2000):
        case(machine, seed)


def test_a_mask_that_is_not_contiguous_is_thinned_as_the_same_mask(machine: Machine) -> None:
    mask = phantom(1)[:, ::2, ::-1] > 0
    distance2 = np.asfortranarray(squared_distance(mask, weights=(1, 1, 1)))
    kernels = machine.kernels(np.dtype(np.uint8))
    settings: dict[str, Any] = {"origin": (0, 0, 0), "open_borders": np.zeros((3, 2), np.bool_)}
    cpu = thinning.thin(mask, distance2, weights=(1, 1, 1), **settings)
    np.testing.assert_array_equal(thinning_gpu.thin(mask, distance2, kernels=kernels, **settings).history, cpu.history)


def test_what_a_full_box_leaves_is_told_without_253_passes(machine: Machine) -> None:
    """Ends and flat parts of skeletons are looked at in every pass: a quiet pass ends the launches."""
    labels = np.zeros((9, 41, 43), np.uint8)
    labels[2:-2, 3:-3, 3:-3] = 1
    machine.launches = 0
    both(
        machine,
        labels,
        squared_distance(labels, weights=(1, 1, 1)),
        (1, 1, 1),
        origin=(0, 0, 0),
        open_borders=np.zeros((3, 2), np.bool_),
    )
    assert machine.launches < 100


def test_a_number_of_passes_that_no_byte_holds_is_refused() -> None:
    mask = np.ones((3, 3, 3), np.bool_)
    closed = np.zeros((3, 2), np.bool_)
    with pytest.raises(UsageError, match="254 passes"):
        thinning_gpu.thin(mask, mask.astype(np.int32), origin=(0, 0, 0), open_borders=closed, passes=254)


@pytest.mark.parametrize("is_far", [False, True])
def test_the_step_of_a_run_on_a_gpu_leaves_the_record_of_one_on_a_cpu(
    is_far: bool, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thinning_gpu, "_compiled", lambda xp, label: machine.kernels(np.dtype(label)))
    monkeypatch.setattr(skeleton, "to_device", lambda array, kind: array)
    labels = np.zeros((40, 37, 42), np.uint16)
    labels[5:-4, 4:-5, 3:-2] = 1
    labels[:, 18:20] = 2
    arrays = {"filled": labels, "distance": squared_distance(labels, weights=(1, 1, 1))}
    grid = Grid(labels.shape, (16, 16, 16))
    step = Thin(weights=(1, 1, 1), halo=4, t0=1, inscribed=True)
    values = {"shortcuts": {"far": np.arange(len(grid)) if is_far else np.zeros(0, np.int64)}}
    n_open = 0
    for block in range(len(grid)):
        core = grid.core_of(block)
        boxes = {name: box.clip(Box.of_shape(grid.shape)) for name, box in step.reads(core).items()}
        regions = {name: Region(box, np.ascontiguousarray(arrays[name][box.slices])) for name, box in boxes.items()}
        given: dict[str, Any] = {"block": block, "core": core, "grid": grid, "regions": regions}
        cpu, gpu = (step.run(View(**given, values=values, records={}, device=kind), core) for kind in ("cpu", "gpu"))
        assert cpu.record.keys() == gpu.record.keys()
        for name, column in cpu.record.items():
            np.testing.assert_array_equal(gpu.record[name], column)
        n_open += len(cpu.record["open_index"])
    assert n_open and machine.launches


@pytest.mark.gpu
def test_a_gpu_leaves_the_histories_of_the_cpu() -> None:
    if backend.gpu_count() == 0:
        pytest.skip(f"no GPU: {backend.find_device().reason}")
    for seed in range(72):
        labels = phantom(seed)
        distance2 = squared_distance(labels, weights=(1, 1, 1))
        settings: dict[str, Any] = {"origin": (3, 0, 1), "open_borders": np.arange(6).reshape(3, 2) % 5 == 1}
        cpu = thinning.thin(labels, distance2, weights=(1, 1, 1), **settings)
        on_gpu = [backend.to_device(array, "gpu") for array in (labels, distance2)]
        gpu = thinning_gpu.thin(*on_gpu, **settings)
        np.testing.assert_array_equal(gpu.history, cpu.history)
