"""Cases of what strangers or mistakes bring: P8 settings that cannot end, P13 files that mean harm."""

from __future__ import annotations

import json
import os
import pickle
import random
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chunkflow.errors import ChunkflowError, IntegrityError, UsageError
from chunkflow.geometry.scale import Scale
from chunkflow.plan.pipeline import InputOptions, OutputOptions, Pipeline
from chunkflow.run.status import status
from chunkflow.stages.deconvolve import Deconvolve
from chunkflow.stages.label import Label
from chunkflow.stages.psf import Psf
from chunkflow.stages.threshold import Threshold
from chunkflow.storage.records import read_record, write_record
from chunkflow.storage.volume import open_array
from chunkflow.testing.chaos import world
from chunkflow.testing.chaos.matrix import Case

FIXED = Threshold(method="fixed", value=30000.0)


def _bad() -> dict[str, Callable[[Path], Any]]:
    """Runs that cannot end, by name: each a function of the source that plans and runs."""

    def run(pipeline: Callable[[], Pipeline], **options: Any) -> Callable[[Path], Any]:
        return lambda source: world.run(world.planned(pipeline(), source, source.parent / "out", **options))

    def simple(**options: Any) -> Callable[[], Pipeline]:
        return lambda: Pipeline([FIXED, Label()], output=OutputOptions(**options))

    psf = Psf(fwhm_um=(0.5, 0.3, 0.3))
    return {
        "a block of nothing": run(lambda: Pipeline([Label()], block=(0, 1, 1))),
        "memory for no block": run(simple(), memory=2**20),
        "a shard that cuts blocks": run(simple(shard=(24, 24, 24))),
        "a chunk that cuts blocks": run(simple(chunk=(5, 7, 9))),
        "a shard in OME-Zarr 0.4": run(
            lambda: Pipeline([FIXED], output=OutputOptions(format="0.4", shard=(16, 16, 32)))
        ),
        "a tile of nothing": run(lambda: Pipeline([Deconvolve(psf=psf, tile=(0, 8, 8))])),
        "a probability nobody makes": run(simple(save=("probability",))),
        "an array nobody knows": run(simple(save=("pictures",))),
        "labels of an image": run(lambda: Pipeline([Label()])),
        "nodata that no voxel can have": run(lambda: Pipeline([FIXED, Label()], input=InputOptions(nodata=-1.5))),
        "no stages": run(lambda: Pipeline([])),
        "an output inside the input": lambda source: world.run(
            world.planned(simple()(), source, source / "out", block=world.BLOCK)
        ),
        "no workers": lambda source: world.run(
            world.planned(simple()(), source, source.parent / "out"), on="local", workers=0
        ),
        "an engine nobody knows": lambda source: world.run(
            world.planned(simple()(), source, source.parent / "out"), on="the moon"
        ),
    }


def _cases() -> list[Case]:
    found = [Case(promise="P8", name=name, run=partial(_refused, name)) for name in _bad()]
    more = {
        "a pipeline with a python tag": _python_tag,
        "a record that is a pickle": _pickled_record,
        "a record that says it is larger than memory": _huge_record,
        "an array of 10^18 voxels": _huge_array,
        "journals changed at random, with right checksums": _odd_journals,
        "plans changed at random": _odd_plans,
        "links in the output that lead elsewhere": _links,
    }
    return found + [Case(promise="P13", name=name, run=run) for name, run in more.items()]


def _refused(name: str, folder: Path) -> int:
    """An error of ours with a remedy, and nothing written."""
    source = world.source_in(folder)
    before = sorted(path for path in folder.rglob("*"))
    error: ChunkflowError | None = None
    try:
        _bad()[name](source)
    except ChunkflowError as caught:
        error = caught
    assert error is not None, "it ran"
    assert error.exit_code in (2, 4), repr(error)
    assert error.remedy, f"no remedy: {error}"
    assert sorted(path for path in folder.rglob("*")) == before, "something was written"
    return 1


class Harm:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",)


def _raises(call: Callable[[], Any], *kinds: type[BaseException]) -> None:
    try:
        call()
    except kinds:
        return
    raise AssertionError("it was taken as it is")


def _python_tag(folder: Path) -> int:
    trace = folder / "harmed"
    for tag in ("object/apply:os.system", "object/new:os.system", "name:os.system", "module:os"):
        text = f"version: 1\nstages:\n  - threshold: !!python/{tag} ['touch {trace}']\n"
        (folder / "p.yaml").write_text(text)
        _raises(lambda: Pipeline.from_yaml(folder / "p.yaml"), UsageError)
        assert not trace.exists(), f"{tag} ran code"
    return 4


def _pickled_record(folder: Path) -> int:
    trace, path = folder / "harmed", folder / "pass-0/000000/0.rec"
    path.parent.mkdir(parents=True)
    write_record(path, {"a": np.arange(3)})
    for content in (pickle.dumps(Harm(trace)), path.read_bytes()[:4] + pickle.dumps(Harm(trace))):
        path.write_bytes(content)
        _raises(lambda: read_record(path), IntegrityError)
    objects = np.empty(1, object)
    objects[0] = Harm(trace)
    _raises(lambda: read_record(_with_header(path, {"a": ["|O", [1], 0]})), IntegrityError)
    assert not trace.exists(), "a record ran code"
    return 3


def _with_header(path: Path, header: Mapping[str, Any]) -> Path:
    from chunkflow.storage import records

    text = json.dumps({records.PLACE: "/".join(path.parts[-3:]), **header}).encode()
    path.write_bytes(records.MAGIC + bytes(records.CODEC.encode(len(text).to_bytes(8, "little") + text + bytes(64))))
    return path


def _huge_record(folder: Path) -> int:
    path = folder / "pass-0/000000/0.rec"
    path.parent.mkdir(parents=True)
    for header in ({"a": ["<f8", [2**40], 0]}, {"a": ["<f8", [-1], 0]}, {"a": ["<f8", [2], 10**12]}, {"a": 7}):
        _raises(partial(read_record, _with_header(path, header)), IntegrityError)
    return 4


def _huge_array(folder: Path) -> int:
    source = world.source_in(folder)
    metadata = json.loads((source / "0/zarr.json").read_text())
    metadata["shape"] = [10**6, 10**6, 10**6]
    (source / "0/zarr.json").write_text(json.dumps(metadata))
    volume = open_array(source / "0", Scale(world.VOXEL_UM))
    assert volume.shape == (10**6,) * 3
    _raises(lambda: world.run(world.planned(world.short_pipeline(), source, folder / "out")), UsageError)
    assert not (folder / "out").exists()
    return 1


def _finished(folder: Path) -> Path:
    world.run(world.planned(world.short_pipeline(), world.source_in(folder), folder / "out"))
    return folder / "out"


def _look(output: Path) -> int:
    """Status and a resume of a stranger's folder: an answer or an error of ours, nothing else."""
    refused = 0
    try:
        status(output)
    except ChunkflowError:
        refused = 1
    plan = world.planned(world.short_pipeline(), output.parent / "in.ome.zarr", output)
    error = world.run_or_error(plan)
    assert error is None or isinstance(error, ChunkflowError)
    if error is None:
        world.check_equal(output, world.clean_hash())
    return refused + (error is not None)


def _odd_journals(folder: Path) -> int:
    """Values exchanged in lines whose checksums are right again."""
    output, rng, refused = _finished(folder), random.Random(2), 0
    path = output / "run/journal.jsonl"
    lines = path.read_bytes().splitlines()
    odd: tuple[Any, ...] = (None, "x", -1, 10**30, [], {}, True, 1.5, ["a"], {"a": "b"})
    for _ in range(60):
        found = [json.loads(line.split(b" ", 1)[1]) for line in lines]
        event = rng.choice(found)
        event[rng.choice(sorted(event))] = rng.choice(odd)
        texts = [json.dumps(event).encode() for event in found]
        path.write_bytes(b"".join(b"%08x %s\n" % (zlib.crc32(text), text) for text in texts))
        refused += _look(output)
        path.write_bytes(b"\n".join(lines) + b"\n")
    return refused


def _odd_plans(folder: Path) -> int:
    output, rng, fired = _finished(folder), random.Random(3), 0
    path = output / "run/plan.json"
    whole = path.read_text()
    odd: tuple[Any, ...] = (None, "../../..", -1, 10**30, [], {}, True, [{}], ["a"], {"a": "b"})
    for _ in range(60):
        content = json.loads(whole)
        target: Any = content
        while isinstance(target, dict | list) and target and rng.random() < 0.8:
            keys = list(target) if isinstance(target, dict) else list(range(len(target)))
            key = rng.choice(keys)
            if not isinstance(target[key], dict | list) or not target[key] or rng.random() < 0.2:
                target[key] = rng.choice(odd)
                break
            target = target[key]
        path.write_text(json.dumps(content))
        _look(output)
        fired += 1
        path.write_text(whole)
    return fired


def _links(folder: Path) -> int:
    """A stranger's output whose folders are links: what is behind them stays."""
    count = 0
    for name in ("run/arrays", "run/records", "image.ome.zarr", "tables", "graph"):
        mine = folder / f"mine-{count}"
        (mine / "0").mkdir(parents=True)
        (mine / "thesis-0123456789abcdef").mkdir()
        for file in ("thesis.txt", "0/thesis.txt", "thesis-0123456789abcdef/thesis.txt", "objects.csv"):
            (mine / file).write_text("years of work")
        output = folder / f"out-{count}"
        (output / "run").mkdir(parents=True)
        (output / name).symlink_to(mine)
        source = folder / "in.ome.zarr"
        plan = world.planned(world.long_pipeline(), source if source.exists() else world.source_in(folder), output)
        for options in ({}, {"overwrite": True}, {"overwrite": True, "restart": True}):
            world.run_or_error(plan, **options)
            texts = {path.read_text() for path in mine.rglob("*") if path.suffix in (".txt", ".csv")}
            found = (texts, len(list(mine.rglob("*.txt"))))
            assert found == ({"years of work"}, 3), f"{name} {options}: gone or changed"
        count += 1
    return count


CASES = _cases()
