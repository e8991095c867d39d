"""Whether this machine can do the work: versions, device, memory, disk, an object store, and a trial run.

Every check says what it found and, where that is not enough, what to do. A bundle is what somebody who helps needs to
see of a run: its plan, its journal and the environment; no voxels, no tables, no file of the user's, and of the
environment's variables only the few that steer threads, devices and batch systems, so no credentials.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeAlias

import numpy as np
import psutil

from chunkflow.backend import available_cores, find_device
from chunkflow.errors import InputNotFoundError, UsageError
from chunkflow.geometry.scale import Scale
from chunkflow.plan.pipeline import Pipeline
from chunkflow.run.places import run_folder
from chunkflow.run.store_check import check_store
from chunkflow.stages.label import Label
from chunkflow.stages.threshold import Threshold
from chunkflow.storage.files import write_atomic
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.omezarr_write import write_image_group
from chunkflow.storage.stores import ObjectPath, Place, place_of
from chunkflow.storage.volume import create_array
from chunkflow.synth import phantoms

Verdict: TypeAlias = Literal["ok", "note", "problem"]

PINNED = {"dask": "2026.7.1", "distributed": "2026.7.1"}
"""dask-cuda pins them, and a scheduler speaks to workers of its own version only."""

OPTIONAL = ("torch", "cupy-cuda13x", "dask-cuda", "dask-jobqueue", "onnxruntime", "obstore", "neuroglancer", "napari")
LEAST_BYTES_PER_CORE = 2**30
LEAST_DISK_BYTES = 10 * 2**30
TRIAL_SIDE = 48
VARIABLES = re.compile(r"(OMP|MKL|NUMBA|OPENBLAS|MALLOC|CUDA|SLURM|DASK|CHUNKFLOW)_[A-Z_]*")
SECRET = re.compile(r"(?i)(key|token|secret|password|credential|auth)")
RUN_FILES = ("plan.json", "input.json", "journal.jsonl", "log.jsonl", "verify.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at. remedy : what to do, where it is not well"""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def doctor(*, folder: str | Path = ".", stores: Sequence[str] = (), trial: bool = True) -> Iterator[Check]:
    """Look at everything, one check after the other.

    Parameters
    ----------
    folder : where results are to be written, whose disk is looked at.
    stores : URLs at which every kind of request is tried, see `run.store_check`.
    trial : whether to run a tiny volume through a local cluster of two workers, which takes some seconds.
    """
    yield _python()
    yield _packages()
    yield _device()
    yield _memory()
    yield _disk(Path(folder))
    yield _object_store()
    for store in stores:
        for step in check_store(store):
            yield Check(name=f"store {step.step}", verdict=step.verdict, found=step.found, remedy=step.remedy)
    if trial:
        yield _trial()


def bundle(output: str | Path, path: str | Path, *, on_check: Callable[[Check], None] | None = None) -> Path:
    """Write a zip file with what explains a run, and nothing of its data.

    Raises
    ------
    InputNotFoundError : the folder holds no run.
    """
    place = place_of(output)
    run = run_folder(place)
    if not run.is_dir():
        raise InputNotFoundError(f"{output} holds no run", "Give the output folder of chunkflow run")
    checks = []
    for check in doctor(folder=place if isinstance(place, Path) else ".", trial=False):
        checks.append(asdict(check))
        if on_check is not None:
            on_check(check)
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder, "bundle.zip")
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("checks.json", json.dumps(checks, indent=1))
            archive.writestr("environment.json", json.dumps(environment(), indent=1))
            for name in RUN_FILES:
                if content := _content(run / name):
                    archive.writestr(f"run/{name}", _without_secrets(content.decode()))
        write_atomic(path, packed.read_bytes())
    return Path(path)


def _content(path: Place) -> bytes:
    """Of a file of a run; empty where there is none. Journals and logs are several objects in a store."""
    if path.is_file():
        return path.read_bytes()
    if isinstance(path, ObjectPath):
        return b"".join(part.read_bytes() for part in sorted(path.iterdir(), key=str))
    return b""


def environment() -> dict[str, Any]:
    """Versions of all packages, the system, and the variables that steer threads, devices and batch systems."""
    packages = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"]}
    told = {k: v for k, v in os.environ.items() if VARIABLES.fullmatch(k) and not SECRET.search(k)}
    return {
        "system": platform.platform(),
        "python": sys.version,
        "cores": available_cores(),
        "memory": psutil.virtual_memory().total,
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
        "variables": dict(sorted(told.items())),
    }


def _without_secrets(text: str) -> str:
    """Text without what URLs carry beside their place: users, passwords, signatures."""
    text = re.sub(r"([a-z][a-z0-9+.-]*://)[^/\s\"@]+@", r"\1", text)
    return re.sub(r"([a-z][a-z0-9+.-]*://[^\s\"?]+)\?[^\s\"]*", r"\1", text)


def _python() -> Check:
    return Check(name="python", verdict="ok", found=f"{platform.python_version()} on {platform.platform(terse=True)}")


def _packages() -> Check:
    found = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"]}
    wrong = {name: found.get(name, "missing") for name, wanted in PINNED.items() if found.get(name) != wanted}
    named = ("chunkflow-engine", "numpy", "zarr", *PINNED, *OPTIONAL)
    text = ", ".join(f"{name} {found[name]}" for name in named if name in found)
    if not wrong:
        return Check(name="packages", verdict="ok", found=text)
    wanted = " ".join(f"{name}=={PINNED[name]}" for name in wrong)
    return Check(
        name="packages",
        verdict="problem",
        found=", ".join(f"{name} {version}" for name, version in wrong.items()),
        remedy=f"pip install {wanted}, in an environment of its own beside napari or cellpose",
    )


def _device() -> Check:
    device = find_device()
    if device.kind == "gpu":
        return Check(name="device", verdict="ok", found=str(device))
    remedy = "pip install 'chunkflow-engine[gpu]' on a machine with an NVIDIA GPU" if "cupy" in device.reason else ""
    return Check(name="device", verdict="note", found=str(device), remedy=remedy)


def _memory() -> Check:
    memory, cores = psutil.virtual_memory(), available_cores()
    text = f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} free, {cores} cores"
    if memory.available >= cores * LEAST_BYTES_PER_CORE:
        return Check(name="memory", verdict="ok", found=text)
    remedy = f"Use fewer workers: --workers {max(1, memory.available // LEAST_BYTES_PER_CORE)}"
    return Check(name="memory", verdict="problem", found=text, remedy=remedy)


def _disk(folder: Path) -> Check:
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if not os.access(there, os.W_OK):
        return Check(name="disk", verdict="problem", found=f"{there} cannot be written", remedy="Choose another folder")
    began = perf_counter()
    with tempfile.NamedTemporaryFile(dir=there) as file:
        file.write(np.zeros(2**24, np.uint8).tobytes())
        file.flush()
        os.fsync(file.fileno())
    speed = 16 / (perf_counter() - began)
    text = f"{free / 2**30:.0f} GiB free at {there}; 16 MiB written and synced at {speed:.0f} MiB/s"
    if free >= LEAST_DISK_BYTES:
        return Check(name="disk", verdict="ok", found=text)
    return Check(name="disk", verdict="note", found=text, remedy="chunkflow plan says what a run takes")


def _object_store() -> Check:
    """Whether credentials are at hand; what they allow is tried where a place is named."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS")
    named = [name for name in names if name in os.environ]
    files = [path for path in ("~/.aws/credentials", "~/.config/gcloud") if Path(path).expanduser().exists()]
    endpoint = ", endpoint from AWS_ENDPOINT_URL" if "AWS_ENDPOINT_URL" in os.environ else ""
    if named or files:
        return Check(name="object store", verdict="ok", found=f"credentials: {', '.join([*named, *files])}{endpoint}")
    return Check(name="object store", verdict="note", found=f"no credentials for S3 or GCS at hand{endpoint}")


def _trial() -> Check:
    """Eight blocks through a cluster of two workers, labels counted."""
    began = perf_counter()
    try:
        found, drawn = _trial_run()
    except (UsageError, OSError, RuntimeError) as error:
        return Check(
            name="trial run", verdict="problem", found=str(error), remedy="See it with chunkflow --debug doctor"
        )
    if found != drawn:
        text = f"{found} objects were found where {drawn} were drawn"
        return Check(
            name="trial run", verdict="problem", found=text, remedy="Report it, with chunkflow doctor --bundle"
        )
    text = f"{found} of {drawn} objects, on two workers, {perf_counter() - began:.1f} s with their start"
    return Check(name="trial run", verdict="ok", found=text)


def _trial_run() -> tuple[int, int]:
    """Objects found and drawn."""
    phantom = phantoms.mitochondria((TRIAL_SIDE,) * 3, (0.1, 0.1, 0.1), seed=0)
    image = (phantom.labels > 0).astype(np.uint8)
    scale = Scale((0.1, 0.1, 0.1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_image_group(folder / "in.ome.zarr", name="trial", levels={"0": scale})
        layout = layout_for_core((TRIAL_SIDE // 2,) * 3, (TRIAL_SIDE,) * 3, "uint8")
        volume = create_array(folder / "in.ome.zarr" / "0", layout, scale)
        volume.write(volume.box, image)
        plan = Pipeline([Threshold(method="fixed", value=0.5), Label()]).plan(
            str(folder / "in.ome.zarr"), folder / "out", block=(TRIAL_SIDE // 2,) * 3, workers=2
        )
        result = plan.run(on="local", workers=2)
        labels = result.labels
        assert labels is not None
        return int(np.max(labels[:])), phantom.objects
