"""Every field of every stage: whether it changes what passes are known by, so that no result mixes settings.

The fields are walked, not listed: a new one fails here until somebody says what it changes, or why nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.plan.pipeline import READ, STAGES
from chunkflow.plan.plan import Plan
from chunkflow.testing.chaos import world
from chunkflow.testing.suites import write_volume

SHAPE = (24, 40, 44)
VOXEL_UM = (0.2, 0.1, 0.1)
Stages = list[Any]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all that stages name: images, regions, a function, networks."""
    folder = tmp_path_factory.mktemp("fields")
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 900, (6, 10, 11)), np.ones((4, 4, 4))).astype(np.uint16)  # alike as labels are
    written = {"in": image, "mask": (image > 3).astype(np.uint8), "cells": (image > 450).astype(np.uint8)}
    written["other"] = image[::-1]
    for name, values in written.items():
        write_volume(folder / f"{name}.ome.zarr", values, VOXEL_UM)
    (folder / "functions_of_fields.py").write_text(
        "def first(image, **options):\n    return image\n\n\ndef second(image):\n    return -image\n"
    )
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def psf(**changes: Any) -> cf.Psf:
    return cf.Psf(**{"fwhm_um": (0.6, 0.25, 0.25), **changes})


SMALL: dict[str, Any] = {"iterations": 2, "background": 1.0, "tile": (24, 32, 32), "halo": (4, 4, 4), "tolerance": 0.5}
AFTER: Stages = [cf.Threshold(smooth_um=0.1), cf.Label(), cf.Skeleton(), cf.Measure()]


def network(folder: Path, seed: int) -> str:
    """A random network of three outputs."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")
    from chunkflow.models import Usage, save_model
    from chunkflow.models.unet import UNet, UNetConfig

    path = folder / f"network-{seed}"
    if not path.exists():
        torch.manual_seed(seed)
        config = UNetConfig(widths=(4, 8), norm="none", out_channels=3)
        save_model(UNet(config).eval(), config, path, usage=Usage(activation="none"))
    return str(path)


def forest(folder: Path, seed: int) -> str:
    """A classifier of two classes."""
    forests = pytest.importorskip("sklearn.ensemble", reason="scikit-learn is not installed")
    from chunkflow.kernels import features
    from chunkflow.models import pixels
    from chunkflow.run.train_pixels import forest_of

    names = features.names((0.1,))
    rng = np.random.default_rng(seed)
    model = forests.RandomForestClassifier(4, random_state=seed).fit(
        rng.random((60, len(names))), 1 + np.arange(60) % 2
    )
    made = pixels.PixelClassifier(
        features=names,
        scales_um=(0.1,),
        voxel_um=VOXEL_UM,
        percentiles=(2.0, 98.0),
        classes=tuple(pixels.Class(n, name, 1) for n, name in enumerate(("dark", "bright"), 1)),
        training={},
        versions={},
        forest=forest_of(model),
    )
    path = folder / f"forest-{seed}.npz"
    path.write_bytes(pixels.content_of(made))
    return str(path)


LOCAL = {"method": "sauvola", "window_um": 1.0, "k": 0.2, "spread": 100.0}
BASES: Mapping[str, Callable[[Path], Any]] = {
    "correct": lambda f: cf.Correct(dark=1.0, gain="slice"),
    "deconvolve": lambda f: cf.Deconvolve(psf=psf(), **SMALL),
    "resample": lambda f: cf.Resample(),
    "apply": lambda f: cf.Apply(function="functions_of_fields:first", output="image", tile=24, halo=2),
    "predict": lambda f: cf.Predict(path=network(f, 0), threshold=None, mode="crop", patch=16, overlap=4),
    "pixels": lambda f: cf.PixelClassifier(path=forest(f, 0), threshold=None),
    "vesselness": lambda f: cf.Vesselness(radii_um=(0.2,), filter="frangi", c=10.0),
    "threshold": lambda f: cf.Threshold(),
    "label": lambda f: cf.Label(),
    "instances": lambda f: cf.Instances(h=0.1),
    "skeleton": lambda f: cf.Skeleton(),
    "measure": lambda f: cf.Measure(),
}

Change = Mapping[str, Any]


def field(name: str, value: Any, /, **base: Any) -> tuple[str, Callable[[Path], tuple[Change, Change]]]:
    """(fields that it needs, those and its own with another value); functions are asked with the folder."""

    def made(folder: Path) -> tuple[Change, Change]:
        known = {k: v(folder) if callable(v) else v for k, v in base.items()}
        return known, {**known, name.partition(".")[2]: value(folder) if callable(value) else value}

    return name, made


CHANGED = dict(
    [
        field("correct.dark", 2.0),
        field("correct.flat", "flat.tif"),
        field("correct.background_percentile", 3.0),
        field("correct.background_tophat_um", 0.5),
        field("correct.gain", "volume", gain_reference=100.0),
        field("correct.gain_percentile", 60.0),
        field("correct.gain_reference", 100.0),
        field("deconvolve.psf", psf(fwhm_um=(0.6, 0.25, 0.3))),
        field("deconvolve.algorithm", "landweber"),
        field("deconvolve.iterations", 3),
        field("deconvolve.stop", "auto", iterations=4),
        field("deconvolve.regularization", 0.02, algorithm="richardson-lucy-tv", regularization=0.01),
        field("deconvolve.step", 0.5, algorithm="landweber"),
        field("deconvolve.momentum", True),
        field("deconvolve.bounds", (0.0, 500.0), algorithm="bounded-landweber", bounds=(0.0, 400.0)),
        field("deconvolve.background", 5.0),
        field("deconvolve.edges", "reflect"),
        field("deconvolve.tolerance", 0.4),
        field("deconvolve.tile", (24, 16, 32)),
        field("deconvolve.halo", (4, 5, 4)),
        field("deconvolve.dtype", "uint16"),
        field("deconvolve.scale", 3.0, dtype="uint16"),
        field("deconvolve.negative", "fail"),
        field("resample.voxel_um", (0.2, 0.11, 0.1)),
        field("apply.function", "functions_of_fields:second"),
        field("apply.output", "labels"),
        field("apply.options", {"size": 3}),
        field("apply.tile", 32),
        field("apply.halo", 3),
        field("apply.halo_um", 0.5, halo=None, halo_um=0.3),
        field("apply.overlap", 0.6, output="labels"),
        field("apply.min_voxels", 5, output="labels"),
        field("apply.min_volume_um3", 0.1, output="labels"),
        field("predict.path", lambda f: network(f, 1)),
        field("predict.output", "classes", threshold="auto"),
        field("predict.channel", 1),
        field("predict.channels", (0,)),
        field("predict.foreground", (2,), output="classes", threshold="auto"),
        field("predict.borders", 1),
        field("predict.distances", 2),
        field("predict.affinities", (1, 2)),
        field("predict.mode", "blend"),
        field("predict.patch", 20),
        field("predict.overlap", 8, patch=24),
        field("predict.batch", 2),
        field("predict.activation", "sigmoid"),
        field("predict.normalization", lambda f: _normalization()),
        field("predict.turns", "flips"),
        field("predict.precision", "bfloat16"),
        field("predict.compiled", True),
        field("predict.threshold", 0.5),
        field("pixels.path", lambda f: forest(f, 1)),
        field("pixels.foreground", 1),
        field("pixels.threshold", 0.5),
        field("vesselness.filter", "sato", alpha=None, beta=None, c=None),
        field("vesselness.radii_um", (0.2, 0.3)),
        field("vesselness.bright", False),
        field("vesselness.alpha", 0.4),
        field("vesselness.beta", 0.4),
        field("vesselness.c", 20.0),
        field("threshold.method", "li"),
        field("threshold.value", 400.0, method="fixed", value=300.0),
        field("threshold.from_", 300.0),
        field("threshold.smooth_um", 0.15),
        field("threshold.classes", 4, method="multi-otsu", classes=3),
        field("threshold.above", 2, method="multi-otsu", classes=3, above=1),
        field("threshold.window_um", 1.5, **LOCAL),
        field("threshold.k", 0.3, **LOCAL),
        field("threshold.spread", 120.0, **LOCAL),
        field("threshold.offset", 5.0, method="adaptive-mean", window_um=1.0, offset=3.0),
        field("threshold.floor", 10.0, **LOCAL),
        field("label.connectivity", 6),
        field("label.min_voxels", 60),
        field("label.min_volume_um3", 0.5),
        field("label.clear_border", True),
        field("label.fill_holes", True),
        field("label.max_hole_um3", 0.5, fill_holes=True, max_hole_um3=0.2),
        field("instances.on", "intensity"),
        field("instances.bright", "borders", on="intensity"),
        field("instances.h", 0.2),
        field("instances.smooth_um", 0.2),
        field("instances.min_seed_distance_um", 0.3),
        field("instances.agglomerate", 0.5),
        field("instances.connectivity", 6),
        field("instances.min_voxels", 60),
        field("instances.min_volume_um3", 0.5),
        field("instances.fill_holes", True),
        field("instances.max_hole_um3", 0.5, fill_holes=True, max_hole_um3=0.2),
        field("skeleton.prune_radii", 0.0),
        field("skeleton.max_halo", 4),
        field("skeleton.t0", 2),
        field("measure.intensity", "image"),
        field("measure.image", lambda f: str(f / "other.ome.zarr")),
        field("measure.channels", (0,)),
        field("measure.background", 3.0, channels=(0,)),
        field("measure.regions", lambda f: str(f / "cells.ome.zarr")),
        field("measure.oriented_extents", True),
        field("measure.graph_metrics", True),
        field("input.kind", "mask"),
        field("input.voxel_um", (0.2, 0.1, 0.11)),
        field("input.nodata", 7.0),
        field("input.mask", lambda f: str(f / "mask.ome.zarr")),
        field("input.nan", "zero"),
        field("input.region", "0:20,:,:"),
        field("input.expansion", 4.0),
        field("output.save", ("labels",)),
        field("output.format", "0.4"),
        field("output.shard", (24, 16, 16), chunk=(8, 8, 8)),
        field("output.chunk", (8, 8, 8)),
        field("output.compression", 9),
        field("output.dtype", "uint16"),
    ]
)

NOTHING = {
    "predict.trust": "says that a file is meant; what it holds is known by its digest",
    "apply.bytes_per_voxel": "what is told of memory",
    "input.path": "what is read is known by its identity",
    "input.channel": "the identity of what is read names it",
    "input.time": "the identity of what is read names it",
    "input.level": "the identity of what is read names it",
    "input.missing": "refuses or counts, and computes the same",
    "input.statistics_from": "values that are lent stand in the passes that they are lent to",
    "output.path": "where, not what",
    "output.pyramid": "levels are passes of their own, from the level below",
    "output.scratch": "how long arrays stay",
}
"""Fields that change no pass, each with why."""


def _normalization() -> Any:
    from chunkflow.models import Normalization

    return Normalization(kind="percentiles", percentiles=(1.0, 99.0))


def known_fields() -> set[str]:
    kinds = {**STAGES, "input": cf.InputOptions, "output": cf.OutputOptions}
    return {f"{key}.{f.name}" for key, kind in kinds.items() for f in fields(kind) if f.name not in READ}


def test_of_every_field_it_is_said_what_it_changes() -> None:
    assert not CHANGED.keys() & NOTHING.keys()
    assert known_fields() == CHANGED.keys() | NOTHING.keys()


def planned(folder: Path, key: str, values: Change) -> Plan:
    options: dict[str, Any] = {"input": cf.InputOptions(), "output": cf.OutputOptions(save=("image", "labels"))}
    stages: dict[str, Any] = {stage.key: stage for stage in AFTER}
    if key in options:
        options[key] = replace(options[key], **values)
        if key == "output" and "dtype" in values:
            stages = {"deconvolve": BASES["deconvolve"](folder), **stages}
        if key == "input" and values.get("kind") == "mask":
            stages.pop("threshold")
    else:
        if "flat" in values:  # which Pipeline.from_yaml reads
            values = {**values, "flat_image": np.full((1, *SHAPE[1:]), 100.0, np.float32)}
        stages[key] = replace(BASES[key](folder), **values)
    if key == "instances" or getattr(stages.get("apply"), "output", "") == "labels":
        stages.pop("label")
    if key == "apply" and stages["apply"].output == "labels":
        stages.pop("threshold")
    if key == "predict" and stages["predict"].says_foreground:
        stages.pop("threshold")
    if key == "pixels" and stages["pixels"].threshold is not None:
        stages.pop("threshold")
    ordered = [stages[name] for name in STAGES if name in stages]
    return cf.Pipeline(ordered, **options).plan(folder / "in.ome.zarr", folder / "out", block=(24, 32, 32))


@pytest.mark.parametrize("name", CHANGED)
def test_a_field_changes_the_fingerprints_of_what_depends_on_it(name: str, here: Path) -> None:
    key = name.partition(".")[0]
    base, change = CHANGED[name](here)
    if name == "output.dtype":
        before = planned(here, "deconvolve", {})
    elif key == "predict" and change.get("compiled") and find_spec("torch") is None:
        pytest.skip("torch is not installed")
    else:
        before = planned(here, key, base)
    after = planned(here, key, change)
    old, new = before.fingerprints("kind"), after.fingerprints("kind")
    changed = {p.name for p in after.passes if new[p.name] != old.get(p.name)}
    gone = old.keys() - new.keys()
    assert changed or gone, f"{name} changes nothing"
    assert changed == world.dependents(after, changed), f"{name}: a pass that depends on a changed one is re-used"


@pytest.mark.parametrize(
    ("name", "value"), [("output.pyramid", "none"), ("output.scratch", "drop"), ("input.missing", "fail")]
)
def test_fields_that_change_no_voxel_change_no_fingerprint(name: str, value: Any, here: Path) -> None:
    key, _, own = name.partition(".")
    assert planned(here, key, {own: value}).fingerprints("kind") == planned(here, key, {}).fingerprints("kind")


def test_what_only_tells_of_memory_changes_no_fingerprint(here: Path) -> None:
    before, after = (planned(here, "apply", {"bytes_per_voxel": n}) for n in (64, 128))
    assert before.fingerprints("kind") == after.fingerprints("kind")


# The PSF is a parameter with parameters of its own.

CONFOCAL: Change = {"microscope": "confocal", "na": 1.2, "immersion_index": 1.33, "emission_nm": 520.0}
CONFOCAL = {**CONFOCAL, "excitation_nm": 488.0, "pinhole_au": 1.0, "fwhm_um": None, "size": (9, 15, 15)}
SHEET: Change = {**CONFOCAL, "microscope": "light-sheet", "excitation_nm": None, "pinhole_au": None, "sheet_um": 3.0}
DEEP: Change = {**CONFOCAL, "sample_index": 1.40, "depth_um": 5.0}
WIDE: Change = {"fwhm_um": None, "na": 1.2, "immersion_index": 1.33, "emission_nm": 520.0, "size": (9, 15, 15)}
OF_PSF: Mapping[str, tuple[Change, Any]] = {
    "model": ({**WIDE, "model": "gibson-lanni"}, "richards-wolf"),
    "microscope": ({**CONFOCAL, "excitation_nm": None, "pinhole_au": None}, "widefield"),
    "fwhm_um": ({}, (0.6, 0.25, 0.3)),
    "objective": ({**CONFOCAL, "na": None, "immersion_index": None, "objective": "63x/1.2 water"}, "63x/1.4 oil"),
    "na": (CONFOCAL, 1.1),
    "magnification": ({**CONFOCAL, "pinhole_au": None, "pinhole_um": 40.0, "magnification": 63.0}, 40.0),
    "immersion_index": (CONFOCAL, 1.34),
    "emission_nm": (CONFOCAL, 600.0),
    "excitation_nm": (CONFOCAL, 500.0),
    "sample_index": (DEEP, 1.38),
    "depth_um": (DEEP, 9.0),
    "index_profile": (
        {**WIDE, "model": "variable-index", "depth_um": 3.0, "index_profile": ((0.0, 1.33), (5.0, 1.35))},
        ((0.0, 1.36), (5.0, 1.40)),
    ),
    "coverslip_um": (DEEP, 150.0),
    "coverslip_index": (DEEP, 1.50),
    "pinhole_au": (CONFOCAL, 0.7),
    "pinhole_um": ({**CONFOCAL, "pinhole_au": None, "pinhole_um": 40.0, "magnification": 63.0}, 60.0),
    "sheet_um": (SHEET, 4.0),
    "tilt_degrees": (SHEET, 10.0),
    "vectorial": (CONFOCAL, True),
    "slab_um": ({**DEEP, "depth_um": 2.0, "sample_index": 1.35, "slab_um": 3.0, "size": (21, 15, 15)}, 2.0),
    "energy": ({**CONFOCAL, "size": None}, 0.9),
    "floor": ({**CONFOCAL, "size": None}, 0.05),
    "size": (CONFOCAL, (9, 13, 15)),
}


def test_of_every_field_of_a_psf_it_is_said_what_it_changes() -> None:
    assert {f.name for f in fields(cf.Psf)} - set(READ) == OF_PSF.keys() | {"path"}  # whose voxels are what is known


@pytest.mark.thorough
@pytest.mark.parametrize("name", OF_PSF)
def test_a_field_of_a_psf_changes_the_fingerprint_of_the_deconvolution(name: str, here: Path) -> None:
    base, value = OF_PSF[name]
    known = [
        planned(here, "deconvolve", {"psf": psf(**values)}).fingerprints("kind")["deconvolve"]
        for values in (base, {**base, name: value})
    ]
    assert known[0] != known[1]
