"""A network of several channels: one forward pass over all of them, in its order, each scaled by its own numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

import chunkflow as cf  # noqa: E402
from chunkflow.errors import ConfigError, InputError, ModelError, UsageError  # noqa: E402
from chunkflow.geometry.scale import Scale  # noqa: E402
from chunkflow.kernels import resample  # noqa: E402
from chunkflow.models import Normalization, Usage, save_model  # noqa: E402
from chunkflow.models.unet import UNet, UNetConfig  # noqa: E402
from chunkflow.models.zoo import write_package  # noqa: E402
from chunkflow.report.methods import methods_text  # noqa: E402
from chunkflow.run.check import check  # noqa: E402
from chunkflow.run.probe import probe  # noqa: E402
from chunkflow.stages import patches  # noqa: E402
from chunkflow.stages.infer import described  # noqa: E402
from chunkflow.storage.layout import layout_for_core  # noqa: E402
from chunkflow.storage.omezarr import Channel  # noqa: E402
from chunkflow.storage.omezarr_write import write_image_group  # noqa: E402
from chunkflow.storage.volume import create_array  # noqa: E402
from chunkflow.testing.suites import differences  # noqa: E402

NAMES = ("mito", "dna", "actin")
SHAPE = (11, 27, 22)
ONE_BLOCK = (256, 256, 256)
Array = NDArray[Any]


def written(folder: Path, images: Array, voxel_um: tuple[float, float, float] = (0.2, 0.1, 0.1)) -> Path:
    """(C, Z, Y, X) voxels as an OME-Zarr image whose channels have names."""
    path, scale = folder / "in.ome.zarr", Scale(voxel_um)
    shown = [Channel(name, (0.0, 1.0)) for name in NAMES[: len(images)]]
    write_image_group(path, name="in", levels={"0": scale}, axes="czyx", channels=shown)
    layout = replace(layout_for_core((16, 16, 16), images.shape[1:], images.dtype), leading=(len(images),))
    volume = create_array(path / "0", layout, scale, axes="czyx")
    for number, image in enumerate(images):
        channel = replace(volume, at=(number,))
        channel.write(channel.box, np.ascontiguousarray(image))
    return path


def images(count: int = 3, seed: int = 0) -> Array:
    """(C, Z, Y, X) uint16, each of another range."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.gamma(2, 40 * 5**k, SHAPE) + 7 * k for k in range(count)]).astype(np.uint16)


def network(folder: Path, count: int, **more: Any) -> tuple[str, UNet]:
    """A random network of so many channels on disk, and itself."""
    torch.manual_seed(count)
    usage = more.pop("usage", Usage(activation="none", normalization=Normalization(kind="mean-sd")))
    config = UNetConfig(in_channels=count, **{"widths": (4, 6), "norm": "batch", **more})
    module = UNet(config).eval().requires_grad_(False)
    path = folder / f"network-{len(list(folder.iterdir()))}"
    save_model(module, config, path, usage=usage)
    return str(path), module


def huge(module: UNet, volume: Array, channel: int = 0) -> Array:
    """One forward pass over (C, Z, Y, X), reflected at its faces farther than the network looks."""
    pad = [(6 * s, 6 * s + -n % s) for n, s in zip(volume.shape[1:], module.config.stride, strict=True)]
    padded = torch.from_numpy(np.pad(volume.astype(np.float32), [(0, 0), *pad], mode="reflect"))[None]
    inner = tuple(slice(a, a + n) for (a, _), n in zip(pad, volume.shape[1:], strict=True))
    return np.asarray(module(padded)[0, channel][inner])


def mean_sd(volume: Array) -> Array:
    """Each channel by its own mean and standard deviation, as numpy has them."""
    values = volume.astype(np.float64)
    return np.asarray((values - values.mean((1, 2, 3), keepdims=True)) / values.std((1, 2, 3), keepdims=True))


def planned(source: Path, output: Path, *stages: Any, block: Any = ONE_BLOCK, **options: Any) -> cf.Plan:
    pipeline = cf.Pipeline(
        stages, input=cf.InputOptions(channel="mito", **options), output=cf.OutputOptions(save=("probability",))
    )
    return pipeline.plan(source, output, block=block)


def found(source: Path, output: Path, *stages: Any, **more: Any) -> Array:
    return np.asarray(planned(source, output, *stages, **more).run(on="serial").probability[:])


def seen(path: str, *channels: Any, **more: Any) -> cf.Predict:
    return cf.Predict(path=path, channels=channels or None, threshold=None, **more)


def close(got: Array, truth: Array) -> bool:
    return bool(np.abs(got - truth).max() <= 1e-5 * np.ptp(truth))


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.thorough)])
def test_blocks_equal_the_whole_lattice_and_one_forward_pass_over_all_channels(count, tmp_path, monkeypatch):
    path, module = network(tmp_path, count)
    volume = images(count)
    source = written(tmp_path, volume)
    monkeypatch.setattr(patches, "SIDES", (8,))  # several patches in a small volume
    stage = seen(path, mode="exact")
    whole = planned(source, tmp_path / "whole", stage).run(on="serial")
    parts = planned(source, tmp_path / "parts", stage, block=(8, 16, 16)).run(on="threads", workers=2)
    assert differences(parts, whole) == []
    assert close(whole.probability[:], huge(module, mean_sd(volume)))


@pytest.mark.thorough
def test_blended_patches_of_two_channels_are_the_same_from_any_blocks(tmp_path):
    path, _ = network(tmp_path, 2, norm="group")
    source = written(tmp_path, images(2))
    stages = (seen(path, mode="blend", patch=(8, 16, 16), overlap=(4, 8, 8), batch=2), cf.Threshold(), cf.Label())
    whole = planned(source, tmp_path / "whole", *stages).run(on="serial")
    parts = planned(source, tmp_path / "parts", *stages, block=(5, 9, 22)).run(on="serial")
    assert differences(parts, whole) == []


def test_the_network_sees_the_channels_in_the_order_that_is_given_by_name_or_number(tmp_path):
    path, module = network(tmp_path, 2)
    volume = images()
    source = written(tmp_path, volume)
    truth = {order: huge(module, mean_sd(volume[list(order)])) for order in ((0, 2), (2, 0), (1, 1))}
    assert not np.allclose(truth[0, 2], truth[2, 0], atol=1e-2)
    for number, (given, order) in enumerate([(("mito", "actin"), (0, 2)), ((2, "mito"), (2, 0)), ((1, "dna"), (1, 1))]):
        assert close(found(source, tmp_path / f"out{number}", seen(path, *given)), truth[order])


def test_a_network_of_one_channel_may_be_given_another_than_the_one_that_is_measured(tmp_path):
    path, module = network(tmp_path, 1)
    volume = images(2)
    source = written(tmp_path, volume)
    assert close(found(source, tmp_path / "other", seen(path, "dna")), huge(module, mean_sd(volume[1:])))
    assert close(found(source, tmp_path / "own", seen(path)), huge(module, mean_sd(volume[:1])))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Normalization(kind="percentiles", percentiles=(5, 90)), lambda v: [(low(c, 5), low(c, 90)) for c in v]),
        (
            Normalization(kind="percentiles", percentiles=(5, 90), together=True),
            lambda v: [(low(v, 5), low(v, 90))] * len(v),
        ),
        (Normalization(kind="mean-sd"), lambda v: [(c.mean(), c.mean() + c.std()) for c in v]),
        (Normalization(kind="mean-sd", together=True), lambda v: [(v.mean(), v.mean() + v.std())] * len(v)),
        (Normalization(kind="linear", offset=30, scale=200), lambda v: [(30, 230)] * len(v)),
    ],
)
def test_channels_are_scaled_by_numpys_numbers_each_or_together(how, expected, tmp_path):
    path, module = network(tmp_path, 3)
    volume = images()
    source = written(tmp_path, volume)
    pairs = np.array(expected(volume.astype(np.float64)))[:, :, None, None, None]
    scaled = (volume - pairs[:, 0]) / (pairs[:, 1] - pairs[:, 0])
    got = found(source, tmp_path / "out", seen(path, normalization=how), block=(8, 16, 16))
    assert close(got, huge(module, scaled))


def low(values: Array, q: float) -> float:
    return float(np.percentile(values, q, method="inverted_cdf"))


def test_voxels_without_data_are_left_out_of_every_channels_numbers(tmp_path):
    path, module = network(tmp_path, 2)
    volume = images(2)
    volume[:, :, :9] = 0
    source = written(tmp_path, volume)
    usable = volume[0] > 0
    pairs = [(channel[usable].mean(), channel[usable].std()) for channel in volume.astype(np.float64)]
    scaled = np.stack([(channel - m) / s for channel, (m, s) in zip(volume.astype(np.float64), pairs, strict=True)])
    got = found(source, tmp_path / "out", seen(path), nodata=0, block=(8, 8, 16))
    assert close(got, huge(module, scaled))


def test_channels_are_resampled_alike_before_the_network(tmp_path):
    """Voxels of 0.2 x 0.1 x 0.1 um become cubes; numbers are those of the resampled channels."""
    path, module = network(tmp_path, 2)
    volume = images(2)
    source = written(tmp_path, volume)
    shape = resample.output_shape(SHAPE, (0.2, 0.1, 0.1), (0.1, 0.1, 0.1))
    cubes = np.stack(
        [resample.linear(v, (0, 0, 0), (0, 0, 0), shape, SHAPE, (0.2, 0.1, 0.1), (0.1, 0.1, 0.1)) for v in volume]
    )
    whole = planned(source, tmp_path / "whole", cf.Resample(), seen(path)).run(on="serial")
    assert close(whole.probability[:], huge(module, mean_sd(cubes)))
    plain = seen(path, normalization=Normalization(kind="linear", scale=100.0))
    many = planned(source, tmp_path / "many", cf.Resample(), seen(path), block=(8, 16, 16)).run(on="serial")
    assert differences(many, whole) == []
    assert close(found(source, tmp_path / "plain", cf.Resample(), plain), huge(module, cubes / 100))


def test_a_part_with_the_numbers_of_the_whole_is_the_whole_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(patches, "SIDES", (8,))
    path, _ = network(tmp_path, 2, widths=(4,))
    source = written(tmp_path, images())
    stage = seen(path, "actin", "dna", mode="exact")  # neither is the channel that the pipeline names
    whole = planned(source, tmp_path / "whole", stage).run(on="serial")
    options = {"region": "4:8,12:20,10:18", "statistics_from": str(tmp_path / "whole")}
    part = planned(source, tmp_path / "part", stage, **options)
    inner = part.run(on="serial").probability[:]
    z, y, x = (int(v) for v in np.round(np.array(part.scale.translation_um) / (0.2, 0.1, 0.1)))
    there = (slice(4 - z, 8 - z), slice(12 - y, 20 - y), slice(10 - x, 18 - x))
    np.testing.assert_array_equal(inner[there], whole.probability[4:8, 12:20, 10:18])


# What is refused, and what is said.


@pytest.mark.parametrize(
    ("takes", "has", "given", "error", "message"),
    [
        (
            2,
            3,
            None,
            ModelError,
            r"takes 2 channels, and the image has 3 channels \(mito, dna, actin\)\. Name 2 of them",
        ),
        (3, 2, None, ModelError, r"takes 3 channels, and the image has 2 channels \(mito, dna\)\. Import an image"),
        (2, 3, ("mito",), ConfigError, r"channels names 1, and the network takes 2; the image has 3 channels"),
        (1, 3, ("mito", "dna"), ConfigError, "channels names 2, and the network takes 1"),
        (2, 3, ("mito", "dan"), InputError, "Did you mean 'dna'"),
        (2, 3, (0, 3), InputError, "3"),
    ],
)
def test_another_number_of_channels_is_refused_before_work_starts(takes, has, given, error, message, tmp_path):
    path, _ = network(tmp_path, takes)
    source = written(tmp_path, images(has))
    with pytest.raises(error, match=message):
        planned(source, tmp_path / "out", seen(path, *(given or ())))
    assert not (tmp_path / "out").exists()


def test_restoration_of_one_of_several_channels_is_refused(tmp_path):
    path, _ = network(tmp_path, 2)
    source = written(tmp_path, images(2))
    restored = cf.Deconvolve(psf=cf.Psf(fwhm_um=(0.4, 0.2, 0.2)))
    with pytest.raises(
        ConfigError, match=r"2 channels of the input as stored, and deconvolve would change one.*run it"
    ):
        planned(source, tmp_path / "out", restored, cf.Resample(), seen(path))
    one, _ = network(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"read as stored, and deconvolve stands in front\. Leave channels out"):
        planned(source, tmp_path / "out", restored, seen(one, "dna"))
    planned(source, tmp_path / "out", restored, seen(one))


def test_labels_have_no_channels(tmp_path):
    path, _ = network(tmp_path, 2)
    source = written(tmp_path, images(2))
    with pytest.raises(UsageError, match="the input is labels"):
        planned(source, tmp_path / "out", seen(path), kind="labels")


def test_another_order_than_in_training_is_told(tmp_path):
    usage = Usage(inputs=("mito", "dna"), activation="none")
    path, _ = network(tmp_path, 2, usage=usage)
    source = written(tmp_path, images(2))
    told = [any("was trained on channels mito, dna" in w for w in planned(source, tmp_path / "out", stage).warnings)
            for stage in (seen(path), seen(path, "dna", "mito"))]  # fmt: skip
    assert told == [False, True]
    assert check(path)["inputs"] == ["mito", "dna"]


# What the plan and the report know.


def test_the_plan_counts_every_channel_that_is_read_and_held(tmp_path):
    source = written(tmp_path, images())
    plans = [
        planned(source, tmp_path / f"out{count}", seen(network(tmp_path, count)[0], *NAMES[:count], patch=32))
        for count in (1, 2, 3)
    ]
    passes = [plan.pass_named("predict") for plan in plans]
    reads = [plan.traffic(p).read_of for plan, p in zip(plans, passes, strict=True)]
    assert [sorted(read) for read in reads] == [[f"input:{k}" for k in range(count)] for count in (1, 2, 3)]
    assert {nbytes for read in reads for nbytes in read.values()} == {reads[0]["input:0"]}  # whole chunks, as of one
    added = np.diff([p.peak_bytes for p in passes])
    # A channel more: what is read, its scaled copy, the patch twice, and the patch in the network.
    assert all(more >= 2 * prod(SHAPE) + 4 * 4 * 32**3 for more in added)


def test_another_order_computes_again_what_depends_on_it(tmp_path):
    path, _ = network(tmp_path, 2)
    source = written(tmp_path, images(2))
    one, other = (planned(source, tmp_path / "out", seen(path, *order)) for order in ((0, 1), (1, 0)))
    before, after = (plan.fingerprints("cpu") for plan in (one, other))
    changed = {name for name in before if before[name] != after[name]}
    assert {"predict", "predict-channels"} <= changed and not {"scan", "range", "input"} & changed


def test_methods_and_report_name_the_channels(tmp_path):
    path, _ = network(tmp_path, 2)
    source = written(tmp_path, images())
    result = planned(source, tmp_path / "out", seen(path, "actin", "mito")).run(on="serial")
    stored = json.loads((tmp_path / "out" / "run" / "plan.json").read_text())
    assert "was applied to the channels actin, mito [" in methods_text(stored)
    assert described(stored["plan"]["facts"]["network"]).startswith("sees channels actin, mito; crop, 1 patches")
    assert "sees channels actin, mito" in (Path(str(result.path)) / "report.html").read_text()


@pytest.mark.thorough
def test_other_channels_are_measured_beside_those_that_the_network_sees(tmp_path):
    path, _ = network(tmp_path, 2)
    volume = images().astype(np.float32)
    source = written(tmp_path, volume)
    measured = cf.Measure(channels=("dna", "actin"))
    pipeline = cf.Pipeline(
        [seen(path, "mito", "dna"), cf.Threshold(), cf.Label(), measured], input=cf.InputOptions(channel="mito")
    )
    one = pipeline.plan(source, tmp_path / "one", block=ONE_BLOCK).run(on="serial")
    many = pipeline.plan(source, tmp_path / "many", block=(8, 16, 9)).run(on="serial")
    assert differences(many, one) == []
    assert {"intensity_dna_mean", "intensity_actin_mean"} <= set(one.objects.columns)


@pytest.mark.thorough
def test_a_probe_runs_the_network_on_samples_of_all_its_channels(tmp_path):
    path, _ = network(tmp_path, 2)
    plan = planned(written(tmp_path, images()), tmp_path / "out", seen(path, "actin", "dna"))
    assert {"predict", "predict-histogram"} <= set(probe(plan, on="serial").passes)


# Networks from elsewhere.


def test_a_package_of_two_channels_gives_what_its_network_gives(tmp_path):
    torch.manual_seed(0)
    config = UNetConfig(in_channels=2, widths=(4, 6), norm="batch")
    module = UNet(config).eval().requires_grad_(False)
    volume = np.pad(images(2), [(0, 0), (4, 4), (0, 0), (0, 0)], mode="reflect")
    usage = Usage(activation="none", normalization=Normalization(kind="mean-sd"), inputs=NAMES[:2])
    write_package(
        tmp_path / "package", model=module, config=config, usage=usage, sample_input=volume, name="Two channels",
        description="Sees two channels.", authors=[{"name": "Ada Lovelace"}],
    )  # fmt: skip
    known = check(tmp_path / "package")
    assert known["in_channels"] == 2 and known["own_test"].startswith("passed")
    source = written(tmp_path, images(2))
    truth = huge(module, mean_sd(images(2)))
    assert close(found(source, tmp_path / "out", seen(str(tmp_path / "package"))), truth)
    folder = tmp_path / "program"  # the same as TorchScript alone, which knows neither stride nor scaling
    folder.mkdir()
    stated = {"stride": list(config.stride), "usage": usage.to_dict()}
    (folder / "model.yaml").write_text(json.dumps(stated))
    (folder / "weights.torchscript").write_bytes((tmp_path / "package" / "weights.torchscript").read_bytes())
    assert close(found(source, tmp_path / "other", seen(str(folder), mode="exact")), truth)
