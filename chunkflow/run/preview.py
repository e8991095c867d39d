"""A region run with several settings, to look at before anything long is started.

    input --brightest region--> crop --each setting, serially, in a temporary folder--> arrays, threshold, PSF, graph

Only the region is read. Where it lies is found on the coarsest level of the image, or on a few hundred blocks of it
where that is large still, so that a terabyte costs what a gigabyte does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.errors import IncompleteError, UsageError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.geometry.scale import Scale
from chunkflow.plan.changes import alternatives, changed
from chunkflow.plan.inputs import open_inputs
from chunkflow.plan.pipeline import Pipeline
from chunkflow.plan.plan import Plan
from chunkflow.plan.region import in_region
from chunkflow.run.batch_import import readable
from chunkflow.run.batch_inputs import check_single
from chunkflow.run.driver import run_plan
from chunkflow.run.events import Listener
from chunkflow.run.result import Result, ResultVolume
from chunkflow.storage.files import write_atomic
from chunkflow.storage.omezarr import image_facts, open_volume
from chunkflow.storage.volume import Volume

SIDES: Triple = (48, 192, 192)
"""Voxels of a region that nobody named."""
MOST_SETTINGS = 8
WHOLE_VOXELS = 2**24
"""Voxels of a level that is looked at as it is; of larger ones, some blocks."""
SURVEY_BLOCK, SURVEY_BLOCKS = 64, 128
MARK = b"chunkflow preview"
"""In the metadata of a picture, by which it is known."""
BRIGHTEST = 99.9
"""Percentile above which light does not count more: one hot voxel is no place to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """An array of a region, and where it lies."""

    data: NDArray[Any]
    scale: Scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts of what the threshold looks at, and the threshold; None where every voxel has its own."""

    counts: NDArray[np.int64]
    edges: NDArray[np.float64]
    threshold: float | None
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPsf:
    """(Z, Y, X) voxels that sum to 1, their size, and full widths at half maximum."""

    voxels: NDArray[np.float32]
    voxel_um: tuple[float, float, float]
    fwhm_um: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What one setting made of the region; None where no stage makes it.

    curves_um : (N, 3) points of each branch, z y x; curve_objects : the object that each belongs to
    facts : numbers for people, by what they are
    """

    title: str
    after: Layer | None
    probability: Layer | None
    labels: Layer | None
    curves_um: tuple[NDArray[np.float64], ...] | None
    curve_objects: tuple[int, ...]
    histogram: Histogram | None
    psf: ShownPsf | None
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A region before, and after each setting. Shows itself as a picture in a notebook.

    kind : of the input: "image", "mask" or "labels"
    box : in voxels of the volume; shape : of the volume
    """

    source: str
    kind: str
    box: Box
    shape: Triple
    before: Layer
    settings: tuple[Shown, ...]

    def png(self) -> bytes:
        """The picture as the bytes of a PNG."""
        from chunkflow.report.preview_picture import png_of_preview

        return png_of_preview(self)

    def _repr_png_(self) -> bytes:
        return self.png()

    def save(self, path: str | Path) -> Path:
        """Write the picture as PNG."""
        target = Path(path)
        write_atomic(target, self.png())
        return target


def preview(
    pipeline: Pipeline,
    volume: Volume | str | Path | None = None,
    *,
    region: str | None = None,
    sets: Sequence[str] = (),
    statistics_from: str | Path | None = None,
    device: str = "auto",
    on_event: Listener | None = None,
) -> Preview:
    """Run a region with every setting that `sets` names.

    Parameters
    ----------
    volume : what to read, an OME-Zarr image or a file that a run imports; by default what the pipeline says.
    region : see `geometry.region`; by default what the pipeline says, else the brightest.
    sets : KEY.key=value; several of one key are alternatives, and the alternatives of several keys all meet.
    statistics_from : result of the whole volume, whose thresholds are taken.

    Raises
    ------
    UsageError : and its kinds, as for a run.
    """
    settings = [(", ".join(texts), changed(pipeline, texts)) for texts in alternatives(sets, most=MOST_SETTINGS)]
    return preview_of(
        settings, volume, region=region, statistics_from=statistics_from, device=device, on_event=on_event
    )


def preview_of_file(path: str | Path, volume: str | Path | None, *, sets: Sequence[str], **how: Any) -> Preview:
    """As `preview`, of a pipeline file."""
    found = alternatives(sets, most=MOST_SETTINGS)
    return preview_of([(", ".join(texts), Pipeline.from_yaml(path, texts)) for texts in found], volume, **how)


@contextmanager
def _readable(pipeline: Pipeline, volume: Volume | str | Path | None) -> Iterator[Volume | str | Path | None]:
    """The input; of a file, the OME-Zarr image that it is imported to meanwhile."""
    source = pipeline.input.path if volume is None else volume
    if source is None or isinstance(source, Volume) or "://" in str(source):
        yield volume
        return
    check_single(source, "a preview")
    if not Path(source).is_file():
        yield volume
        return
    with (
        TemporaryDirectory(prefix="chunkflow-preview-") as folder,
        readable(source, Path(folder) / "input", voxel_um=pipeline.input.voxel_um) as image,
    ):
        yield image


def preview_of(
    settings: Sequence[tuple[str, Pipeline]],
    volume: Volume | str | Path | None = None,
    *,
    region: str | None = None,
    statistics_from: str | Path | None = None,
    device: str = "auto",
    on_event: Listener | None = None,
) -> Preview:
    """As `preview`, of pipelines and what they are called; the first says which region is looked at."""
    first = settings[0][1]
    named = first.input.path if volume is None else volume
    with _readable(first, volume) as image:
        found = _preview_of(settings, image, region, statistics_from, device, on_event)
    return found if image is volume else replace(found, source=str(named))


def _preview_of(
    settings: Sequence[tuple[str, Pipeline]],
    volume: Volume | str | Path | None,
    region: str | None,
    statistics_from: str | Path | None,
    device: str,
    on_event: Listener | None,
) -> Preview:
    first = settings[0][1]
    regions = {str(each.input.region) for _, each in settings}
    if len(regions) > 1:
        raise UsageError(
            f"the settings name the regions {' and '.join(sorted(regions))}, and a preview looks at one",
            "Name it with --region",
        )
    source, _ = open_inputs(first, volume)
    wanted = region or first.input.region or str(brightest(first, volume))
    named = [(title, in_region(_saving(each), wanted, statistics_from)) for title, each in settings]
    with TemporaryDirectory(prefix="chunkflow-preview-") as folder:
        plans = [
            (title, each.plan(volume, Path(folder) / str(number), resume=False))
            for number, (title, each) in enumerate(named)
        ]  # all of them first: what is refused is refused before anything runs
        shown = tuple(_shown(title, plan, device, on_event) for title, plan in plans)
    box = _asked(plans[0][1])
    before, expansion = source.cropped(box), first.input.expansion
    scale = before.scale.shrunk(expansion) if expansion != 1 else before.scale
    layer = Layer(data=before.read(before.box), scale=scale)
    return Preview(source=source.path, kind=first.input.kind, box=box, shape=source.shape, before=layer, settings=shown)


def _asked(plan: Plan) -> Box:
    """The region that was asked for, which borrowed statistics may have widened."""
    start, stop = zip(*(part.split(":") for part in plan.facts["region"]["asked"].split(",")), strict=True)
    return Box(triple([int(n) for n in start]), triple([int(n) for n in stop]))


def _saving(pipeline: Pipeline) -> Pipeline:
    """The pipeline, keeping what is looked at."""
    makes = any(stage.key in ("predict", "pixels") and not _is_other(stage) for stage in pipeline.stages)
    save = ("image", "labels", "skeleton", *(("probability",) if makes else ()))
    output = replace(pipeline.output, path=None, save=save, shard=None, chunk=None, pyramid="none")
    return replace(pipeline, output=output)


def _is_other(stage: Any) -> bool:
    """Whether a network makes something other than a probability."""
    return bool(getattr(stage, "output", "probability") != "probability")


def _shown(title: str, plan: Plan, device: str, on_event: Listener | None) -> Shown:
    began = perf_counter()
    try:
        result = run_plan(plan, on="serial", device=device, on_event=on_event)
    except IncompleteError as error:
        raise IncompleteError(error.what) from error  # its remedy goes on in a folder that is gone by then
    seconds = perf_counter() - began
    makes_image = any(getattr(stage, "makes_image", False) for stage in plan.pipeline.stages)
    skeleton = result.skeleton is not None and plan.pipeline.stages[-1].key in ("skeleton", "measure")
    branches = [data for *_, data in result.graph.edges(data=True)] if skeleton else []
    curves = tuple(branch["points"] for branch in branches) if skeleton else None
    return Shown(
        title=title,
        after=_layer(result.image) if makes_image else None,
        probability=_layer(result.probability),
        labels=_layer(result.labels),
        curves_um=curves,
        curve_objects=tuple(int(branch["object_id"]) for branch in branches),
        histogram=_histogram(plan, result),
        psf=_psf(plan),
        facts=_facts(result, curves) | {"time": f"{seconds:.1f} s"},
    )


def _layer(found: ResultVolume | None) -> Layer | None:
    return None if found is None else Layer(data=found[...], scale=found.volume.scale)


def _histogram(plan: Plan, result: Result) -> Histogram | None:
    """Of the whole signal, as the threshold's merge left it; of a fixed threshold, of the image that it cuts."""
    names = {p.name for p in plan.passes}
    stage = next((stage for stage in plan.pipeline.stages if stage.key == "threshold"), None)
    if "threshold" in names:
        found = result.pass_values("threshold")
        assert stage is not None
        return Histogram(
            counts=found["histogram"],
            edges=found["edges"].astype(np.float64),
            threshold=float(found["threshold"][0]),
            name=str(stage.method),  # type: ignore[attr-defined]
        )
    seen = result.probability or result.image
    if seen is None or stage is None or "vesselness" in names:
        return None
    counts, edges = np.histogram(seen[...].astype(np.float64), 256)
    value, method = stage.value, str(stage.method)  # type: ignore[attr-defined]
    return Histogram(counts=counts, edges=edges, threshold=value, name=method)


def _psf(plan: Plan) -> ShownPsf | None:
    draft = next((p.draft for p in plan.passes if p.name == "deconvolve"), None)
    if draft is None:
        return None
    kernels, facts = draft.constants["psf"], plan.facts["psf"]
    z, y, x = plan.input.scale.voxel_um  # as the microscope saw it
    return ShownPsf(voxels=kernels[len(kernels) // 2], voxel_um=(z, y, x), fwhm_um=tuple(facts["fwhm_um"][0]))


def _facts(result: Result, curves: tuple[NDArray[np.float64], ...] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    if result.labels is not None:
        labels = result.labels[...]
        count = len(np.unique(labels[labels > 0]))
        found["objects"] = f"{count:,} object{'' if count == 1 else 's'}"
        share = 100 * float((labels > 0).mean())
        found["foreground"] = f"{share:.{0 if share >= 10 else 1}f} % of the voxels"
    if curves is not None:
        length = sum(np.linalg.norm(np.diff(curve, axis=0), axis=1).sum() for curve in curves)
        branches = f"{len(curves):,} branch{'' if len(curves) == 1 else 'es'}"
        found["skeleton"] = f"{length:,.{0 if length >= 1000 else 1}f} um in {branches}"
    return found


def brightest(pipeline: Pipeline, volume: Volume | str | Path | None = None, sides: Triple = SIDES) -> Box:
    """The region of some voxels (fewer where the volume is smaller) that holds most light, or most foreground.

    Looks at the coarsest level; where that has more than 2^24 voxels, at 128 blocks of it, drawn once for all.
    """
    finest, _ = open_inputs(pipeline, volume)
    level = _coarsest(pipeline, volume, finest)
    size = np.minimum(sides, finest.shape)
    coarser = np.divide(level.scale.voxel_um, finest.scale.voxel_um)
    coarse = np.clip(np.round(size / coarser), 1, level.shape).astype(int)
    light = np.array(_window(level, pipeline, triple(coarse.tolist())))
    at_um = np.array(level.scale.translation_um) + light * level.scale.voxel_um
    middle = (at_um - finest.scale.translation_um) / finest.scale.voxel_um
    start = np.clip(np.round(middle - (size - 1) / 2), 0, np.array(finest.shape) - size).astype(int)
    return Box(triple(start.tolist()), triple((start + size).tolist()))


def _coarsest(pipeline: Pipeline, volume: Volume | str | Path | None, finest: Volume) -> Volume:
    """The coarsest level of the image; the volume itself where it is one of no image."""
    path = pipeline.input.path if volume is None else volume
    if path is None or isinstance(path, Volume):
        return finest
    options = pipeline.input
    count = len(image_facts(path).levels)
    time = options.time if isinstance(options.time, int) else None
    return open_volume(path, channel=options.channel, time=time, level=max(count - 1, options.level))


def _window(level: Volume, pipeline: Pipeline, size: Triple) -> tuple[float, ...]:
    """Middle of the box of that size that holds most light, in voxels of the level."""
    if np.prod(level.shape, dtype=np.int64) <= WHOLE_VOXELS:
        mean = ndimage.uniform_filter(_light(level, level.box, pipeline), size, mode="constant")
        inside = tuple(slice(n // 2, m - (n - 1) // 2) for n, m in zip(size, level.shape, strict=True))
        best = np.unravel_index(int(mean[inside].argmax()), mean[inside].shape)
        return tuple(int(b) + n // 2 - 0.5 * (n % 2 == 0) for b, n in zip(best, size, strict=True))
    grid = Grid(level.shape, triple(SURVEY_BLOCK))
    chosen = np.random.default_rng(0).permutation(len(grid))[:SURVEY_BLOCKS]
    cores = [grid.core_of(index) for index in sorted(chosen.tolist())]
    core = max(cores, key=lambda core: float(_light(level, core, pipeline).mean()))
    return tuple((a + b - 1) / 2 for a, b in zip(core.start, core.stop, strict=True))


def _light(level: Volume, box: Box, pipeline: Pipeline) -> NDArray[np.float32]:
    """What counts as light: of masks foreground, of labels where one meets another; hot voxels are no brighter."""
    data = level.read(box)
    if pipeline.input.kind == "mask":
        return (data > 0).astype(np.float32)
    if pipeline.input.kind == "labels":
        return borders(data).astype(np.float32)
    light = np.nan_to_num(data.astype(np.float32), posinf=0.0, neginf=0.0)
    if pipeline.input.nodata is not None:
        light[data == pipeline.input.nodata] = light.min()
    return np.minimum(light, np.float32(np.percentile(light, BRIGHTEST)))


def borders(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Voxels of (Z, Y, X) labels whose next one along y or x is another."""
    found = np.zeros(labels.shape, np.bool_)
    found[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    found[..., :-1] |= labels[..., :-1] != labels[..., 1:]
    return found


def check_target(path: str | Path, *, overwrite: bool) -> Path:
    """The file to write: a PNG that is not there, or a picture of ours, which the next one may replace.

    Raises
    ------
    UsageError : it is something else.
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise UsageError(f"{path} is no PNG", "Give a name that ends in .png")
    if target.exists() and not overwrite and not is_ours(target):
        raise UsageError(f"{path} is there, and no preview", "Add --overwrite, or give another name")
    return target


def is_ours(path: Path) -> bool:
    """Whether a file begins as the PNG of a preview does."""
    with path.open("rb") as file:
        return MARK in file.read(512)
