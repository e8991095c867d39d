"""A U-Net over a volume, stored to stored, beside its own bare forward passes and beside MONAI's sliding window.

Everybody has the same network, weights, volume on disk and one thread to compute with, and leaves an array on disk.
Ours runs as the pipeline does: plan, journal, shards, report, pyramid left out; a second thread reads the next patch
and writes the last one meanwhile. "Bare" are the forward passes of our patches alone, on patches in memory, once torch
is warm; the run beside them goes from the first read to the last write and the report. Its plan counts beside MONAI.
MONAI's window has its default overlap of a quarter, and the size that suits it best; layers go over whole windows
there, as in any torch network, and once by planes, as in ours on a CPU. Voxels per second are of the volume; errors are
against one forward pass over all of it, as shares of the range of its output, in voxels far enough from the volume's
faces that padding does not count.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from common import Report, Row, Table, Timing, in_fresh_process, options, peer, spread
from numpy.typing import NDArray

import chunkflow as cf
from chunkflow.models import load_model, save_model
from chunkflow.models.predict import prepared
from chunkflow.models.unet import UNet, UNetConfig
from chunkflow.run.resident import peak_bytes
from chunkflow.testing.suites import write_volume

SIDE, SMALL_SIDE, QUICK_SIDE = 384, 256, 96
WINDOWS, QUICK_WINDOWS = (64, 96, 128), (64,)
PATCHES = (112, 144, 176)
CROPS = ((128, 16), (128, 32))
CONFIG = UNetConfig(widths=(16, 32, 64), norm="batch")
BARE_GOAL, MONAI_GOAL = 0.95, 1.5
FAR = 24
"""Voxels that the network looks to every side."""


class Ran(NamedTuple):
    """Seconds, MiB of the process at its peak, and the seconds of the plan before."""

    seconds: float
    peak: float
    plan: float = 0.0


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    report = Report("inference", "A U-Net from disk to disk", given, ["torch", "monai", "zarr"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        side = QUICK_SIDE if given.quick else SIDE
        volume = prepare(folder, side)
        truth = middle_of_one_pass(folder, volume)
        compare(report, folder, volume.size, truth)
    if not given.quick:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            volume = prepare(folder, SMALL_SIDE)
            sizes(report, folder, volume.size, middle_of_one_pass(folder, volume))
    report.finish()


def prepare(folder: Path, side: int) -> NDArray[np.float32]:
    """A volume and a network on disk, whose norms have statistics that are not those of a new one."""
    volume = np.random.default_rng(0).random((side,) * 3, dtype=np.float32)
    write_volume(folder / "in.ome.zarr", volume)
    torch.manual_seed(0)
    network = UNet(CONFIG).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    save_model(network, CONFIG, folder / "network")
    return volume


def network_of(folder: Path) -> UNet:
    """The network as somebody would have it who trained it."""
    network = UNet(CONFIG)
    from safetensors.torch import load_file

    network.load_state_dict(load_file(folder / "network" / "weights.safetensors"))
    return network.eval().requires_grad_(False)


def middle(side: int) -> tuple[slice, slice, slice]:
    """The voxels that errors are taken of."""
    thick = min(side - 2 * FAR, 64)
    first = (side - thick) // 2 // 4 * 4
    return slice(first, first + thick), slice(FAR, side - FAR), slice(FAR, side - FAR)


def middle_of_one_pass(folder: Path, volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """What one forward pass over the whole volume gives there: it depends on no more than is passed."""
    z, y, x = middle(len(volume))
    seen = torch.from_numpy(volume[z.start - FAR : z.stop + FAR])[None, None]
    with torch.inference_mode():
        output = torch.sigmoid(network_of(folder)(seen, whole=True))[0, 0, FAR:-FAR]
    return np.asarray(output[:, y, x])


# Contenders, each in a process of its own.


def run_ours(folder: Path, name: str, **parameters: Any) -> Ran:
    stage = cf.Predict(path=str(folder / "network"), activation="sigmoid", threshold=None, **parameters)
    output = cf.OutputOptions(save=("probability",), pyramid="none")
    began = perf_counter()
    plan = cf.Pipeline([stage], output=output).plan(folder / "in.ome.zarr", folder / name, memory=8 * 2**30)
    planned = perf_counter()
    plan.run(on="threads", workers=1)
    return Ran(perf_counter() - planned, peak_bytes() / 2**20, planned - began)


def run_bare(folder: Path, name: str) -> Ran:
    """The forward passes that a run with this plan makes."""
    stage = cf.Predict(path=str(folder / "network"), threshold=None)
    output = cf.OutputOptions(save=("probability",))
    plan = cf.Pipeline([stage], output=output).plan(folder / "in.ome.zarr", folder / name, memory=8 * 2**30)
    facts = plan.facts["network"]
    torch.set_num_threads(1)
    module: Any = prepared(load_model(folder / "network")).module
    patch = torch.rand(1, 1, *facts["patch"])
    margin = tuple(facts["margin"])
    with torch.inference_mode():
        module(patch, margin)
        began = perf_counter()
        for _ in range(facts["patches"]):
            torch.sigmoid(module(patch, margin))
        return Ran(perf_counter() - began, peak_bytes() / 2**20)


def run_monai(folder: Path, name: str, *, window: int, mode: str, whole: bool = True) -> Ran:
    import zarr
    from monai.inferers import sliding_window_inference

    torch.set_num_threads(1)
    network = network_of(folder)
    began = perf_counter()
    volume = torch.from_numpy(zarr.open_array(folder / "in.ome.zarr" / "0")[:])[None, None]
    with torch.inference_mode():
        applied = partial(network, whole=whole)
        output = torch.sigmoid(sliding_window_inference(volume, (window,) * 3, 1, applied, mode=mode))
    shape = tuple(output.shape[2:])
    stored = zarr.create_array(folder / name, shape=shape, chunks=(64,) * 3, shards=(128,) * 3, dtype="float32")
    stored[:] = output[0, 0].numpy()
    return Ran(perf_counter() - began, peak_bytes() / 2**20)


def error_of(path: Path, truth: NDArray[np.float32], side: int) -> float:
    """The largest difference over the range of the truth."""
    import zarr

    found = zarr.open_array(path)[middle(side)]
    return float(np.abs(found - truth).max() / np.ptp(truth))


# Tables.


def compare(report: Report, folder: Path, voxels: int, truth: NDArray[np.float32]) -> None:
    """Ours beside bare passes, in turn, and beside MONAI's windows, which take minutes and go once."""
    quick, side = report.options.quick, round(voxels ** (1 / 3))
    contenders: dict[str, Callable[[Path, str], Ran]] = {"ours": run_ours, "bare": run_bare}
    if peer("monai.inferers", report) is not None:
        for window in QUICK_WINDOWS if quick else WINDOWS:
            contenders[f"MONAI {window}"] = partial(run_monai, window=window, mode="constant")
        window = WINDOWS[0]
        contenders[f"MONAI {window} by planes"] = partial(run_monai, window=window, mode="constant", whole=False)
    ran: dict[str, list[Ran]] = {name: [] for name in contenders}
    for number in range(report.options.rounds):
        for name, contender in contenders.items():
            if number and name.startswith("MONAI"):
                continue
            ran[name].append(in_fresh_process(contender, folder, f"{name}-{number}"))
    times = {name: Timing(tuple(run.seconds for run in runs)) for name, runs in ran.items()}
    peaks = {name: max(run.peak for run in runs) for name, runs in ran.items()}
    alone, bare = times["ours"].median, times["bare"].median
    ours = Timing(tuple(run.plan + run.seconds for run in ran["ours"])).median
    report.rows.append(Row(name="seconds, the run", ours=alone, peer="bare forwards", peer_value=bare, goal=BARE_GOAL))
    for name in [name for name in times if name.startswith("MONAI")]:
        report.rows += [
            Row(name="seconds, plan and run", ours=ours, peer=name, peer_value=times[name].median, goal=MONAI_GOAL),
            Row(name="peak MiB of the process", ours=peaks["ours"], peer=name, peer_value=peaks[name]),
            Row(
                name="largest error",
                ours=error_of(folder / "ours-0" / "probability.ome.zarr" / "0", truth, side),
                peer=name,
                peer_value=error_of(folder / f"{name}-0", truth, side),
                goal=1.0,
            ),
        ]
    report.notes += [
        spread(times),
        f"{voxels / 1e3 / ours:.0f} thousand voxels a second; the peak holds torch and the process: bare passes "
        f"took {peaks['bare']:.0f} MiB",
    ]


def sizes(report: Report, folder: Path, voxels: int, truth: NDArray[np.float32]) -> None:
    """Other patches, in every mode, and other blocks, of which nothing depends."""
    side = round(voxels ** (1 / 3))
    rows: dict[str, list[float | None]] = {}
    settings = [(f"exact, patch {patch}", {"mode": "exact", "patch": patch}) for patch in PATCHES]
    for patch, overlap in CROPS:
        for mode in ("crop", "blend"):
            name = f"{mode}, patch {patch}, overlap {overlap}"
            settings.append((name, {"mode": mode, "patch": patch, "overlap": overlap}))
    for name, parameters in settings:
        out = name.replace(", ", "-").replace(" ", "-")
        seconds, peak, _ = in_fresh_process(partial(run_ours, **parameters), folder, out)
        error = error_of(folder / out / "probability.ome.zarr" / "0", truth, side)
        rows[name] = [voxels / 1e3 / seconds, peak, 1e6 * error]
    title = f"Over {side}^3 (one round): thousand voxels a second, peak MiB of the process, largest error in millionths"
    report.tables.append(Table(title=title, columns=("kvoxel/s", "MiB", "error"), rows=rows, digits=0))


if __name__ == "__main__":
    main()
