"""A network over a volume: what one huge forward pass gives, or the same lattice over the whole, for any blocks."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

import chunkflow as cf  # noqa: E402
from chunkflow.errors import ConfigError, ModelError, PlanError  # noqa: E402
from chunkflow.kernels.blend import gaussian_weights  # noqa: E402
from chunkflow.models import Normalization, Usage, load_model, save_model  # noqa: E402
from chunkflow.models.unet import UNet, UNetConfig  # noqa: E402
from chunkflow.stages import patches  # noqa: E402
from chunkflow.testing.memory import run_in_memory  # noqa: E402
from chunkflow.testing.suites import check_stage, differences, write_volume  # noqa: E402

ONE_BLOCK = (256, 256, 256)


def network(folder: Path, seed: int = 0, usage: Usage | None = None, **parameters: Any) -> tuple[str, UNet]:
    """A random network on disk, with statistics that are not those of a new one; and itself."""
    torch.manual_seed(seed)
    config = UNetConfig(**parameters)
    module = UNet(config).eval().requires_grad_(False)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm3d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    path = folder / f"network-{seed}-{len(list(folder.iterdir()))}"
    save_model(module, config, path, usage=usage or Usage(activation="none"))
    return str(path), module


def image(shape: tuple[int, int, int], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def huge(module: UNet, volume: NDArray[np.float32], channel: int = 0) -> NDArray[np.float32]:
    """One forward pass over the volume, reflected at its faces farther than the network looks."""
    stride = module.config.stride
    pad = [(6 * s, 6 * s + -n % s) for n, s in zip(volume.shape, stride, strict=True)]
    padded = torch.from_numpy(np.pad(volume, pad, mode="reflect"))[None, None]
    inner = tuple(slice(a, a + n) for (a, _), n in zip(pad, volume.shape, strict=True))
    return np.asarray(module(padded)[0, channel][inner])


def found(stage: cf.Predict, volume: NDArray[Any], block: tuple[int, int, int] = ONE_BLOCK) -> NDArray[Any]:
    return run_in_memory([stage], volume, block=block, save=("probability",)).arrays["probability"]


def small(mode: str, path: str, **more: Any) -> cf.Predict:
    return cf.Predict(path=path, mode=mode, threshold=None, **more)


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in (6, 7))])
def test_exact_patches_give_what_one_huge_forward_pass_gives(seed, tmp_path, monkeypatch):
    """Random networks without statistics of a patch, random volumes and patches: within 1e-5 of the output's range."""
    rng = np.random.default_rng(seed)
    levels, outputs = 4 if seed > 5 else int(rng.integers(1, 4)), int(rng.integers(1, 4))
    options: dict[str, Any] = {"widths": (4, 6, 8, 8)[:levels], "out_channels": outputs}
    options |= {"norm": ("batch", "none")[seed % 2]}
    if seed == 4:
        options |= {"stem": (1, 2, 2), "widths": (4, 6)}
    if seed == 5:
        options |= {"pools": ((1, 2, 2),), "kernels": ((1, 3, 3), (3, 3, 3))[: max(1, levels - 1)]}
    path, module = network(tmp_path, seed, **options)
    volume = image((int(rng.integers(5, 24)), int(rng.integers(20, 44)), int(rng.integers(18, 40))), seed)
    monkeypatch.setattr(patches, "SIDES", (16,))  # several patches in a small volume
    channel = int(rng.integers(0, outputs))
    for more in ({}, {"batch": 3}):
        result = found(small("exact", path, channel=channel, **more), volume)
        truth = huge(module, volume, channel)
        assert np.abs(result - truth).max() <= 1e-5 * np.ptp(truth)


def test_a_lattice_that_is_moved_by_one_voxel_is_another_result(tmp_path, monkeypatch):
    """Why steps are multiples of the stride: with one voxel more, pools meet other voxels."""
    path, module = network(tmp_path, widths=(4, 6), norm="none")
    volume = image((24, 40, 40))
    monkeypatch.setattr(patches, "SIDES", (16,))
    truth = huge(module, volume)
    start_of = patches.PatchLattice.start_of
    monkeypatch.setattr(
        patches.PatchLattice, "start_of", lambda self, position: tuple(a + 1 for a in start_of(self, position))
    )
    assert np.abs(found(small("exact", path), volume) - truth).max() > 1e-2 * np.ptp(truth)


def test_the_margin_is_what_makes_it_exact(tmp_path, monkeypatch):
    path, module = network(tmp_path, widths=(4, 6), norm="none")
    volume = image((24, 40, 40))
    monkeypatch.setattr(patches, "SIDES", (16,))
    reach = patches.reach
    monkeypatch.setattr(patches, "reach", lambda model: tuple(r - 2 for r in reach(model)))
    truth = huge(module, volume)
    assert np.abs(found(small("exact", path), volume) - truth).max() > 1e-5 * np.ptp(truth)


@pytest.mark.parametrize("norm", ["group", "instance"])
@pytest.mark.parametrize("mode", ["crop", "blend"])
def test_a_network_with_statistics_of_its_patch_gives_what_the_same_lattice_gives_over_the_whole_volume(
    norm, mode, tmp_path
):
    path, module = network(tmp_path, widths=(4, 8), norm=norm)
    volume = image((19, 33, 30))
    patch, overlap = (16, 24, 16), (4, 8, 8)
    got = found(small(mode, path, patch=patch, overlap=overlap), volume)
    np.testing.assert_allclose(got, whole_lattice(module, volume, patch, overlap, mode), atol=1e-5)


def whole_lattice(
    module: UNet, volume: NDArray[np.float32], patch: tuple[int, ...], overlap: tuple[int, ...], mode: str
) -> NDArray[np.float64]:
    """The definition, in float64 and without blocks."""
    margin = [o // 2 for o in overlap]
    step = [p - o for p, o in zip(patch, overlap, strict=True)]
    far = [2 * p for p in patch]
    padded = np.pad(volume, [(f, f) for f in far], mode="reflect")
    total, norm = np.zeros(padded.shape), np.zeros(padded.shape)
    weights = gaussian_weights(patch) if mode == "blend" else np.zeros(patch)
    if mode == "crop":
        weights[tuple(slice(m, p - m) for m, p in zip(margin, patch, strict=True))] = 1
    counts = [-(-n // s) for n, s in zip(volume.shape, step, strict=True)]
    for position in product(*map(range, counts)):
        start = [i * s - m + f for i, s, m, f in zip(position, step, margin, far, strict=True)]
        here = tuple(slice(a, a + p) for a, p in zip(start, patch, strict=True))
        total[here] += weights * np.asarray(module(torch.from_numpy(padded[here].copy())[None, None])[0, 0])
        norm[here] += weights
    inner = tuple(slice(f, f + n) for f, n in zip(far, volume.shape, strict=True))
    return total[inner] / norm[inner]


@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        ({"norm": "batch"}, {"mode": "exact"}),
        ({"norm": "batch"}, {"mode": "crop", "patch": 16, "batch": 3}),
        ({"norm": "group"}, {"mode": "blend", "patch": (8, 16, 16), "overlap": (4, 8, 4), "batch": 2}),
        ({"norm": "group", "out_channels": 3}, {"output": "classes", "mode": "blend", "patch": 16}),
        ({"norm": "none"}, {"output": "image", "turns": "plane"}),
    ],
)
def test_blocks_change_nothing_of_a_network_and_of_the_labels_after_it(parameters, options, tmp_path):
    path, _ = network(tmp_path, widths=(4, 8), **parameters)
    stages: list[Any] = [cf.Predict(path=path, normalization=Normalization(kind="percentiles"), **options)]
    stages += [] if options.get("output") == "classes" else [cf.Threshold()]
    stages[0] = (
        stages[0]
        if options.get("output")
        else cf.Predict(path=path, normalization=Normalization(kind="mean-sd", asinh=2.0), threshold=None, **options)
    )
    check_stage([*stages, cf.Label()], folder=tmp_path, cases=1, grids=2, largest=(20, 40, 36), seed=5)


def test_workers_and_nodata_change_nothing_either(tmp_path):
    path, _ = network(tmp_path, widths=(4, 8), norm="group")
    volume = (1000 * image((20, 40, 44))).astype(np.uint16)
    volume[:, :9] = 0
    source = write_volume(tmp_path / "in.ome.zarr", volume)
    stages = [small("blend", path, patch=16, normalization=Normalization(kind="mean-sd")), cf.Threshold(), cf.Label()]
    pipeline = cf.Pipeline(
        stages, input=cf.InputOptions(nodata=0), output=cf.OutputOptions(save=("probability", "labels"))
    )
    one = pipeline.plan(source, tmp_path / "one", block=ONE_BLOCK).run(on="serial")
    many = pipeline.plan(source, tmp_path / "many", block=(8, 16, 24)).run(on="threads", workers=3)
    assert differences(many, one) == []


# What the grey values become.


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Normalization(), lambda v: v),
        (Normalization(kind="linear", offset=100, scale=50), lambda v: (v - 100) / 50),
        (Normalization(kind="mean-sd"), lambda v: (v - v.mean()) / v.std()),
        (
            Normalization(kind="percentiles", percentiles=(10, 90), asinh=3),
            lambda v: np.arcsinh(3 * (v - low(v, 10)) / (low(v, 90) - low(v, 10))) / np.arcsinh(3),
        ),
    ],
)
def test_grey_values_are_scaled_by_numbers_of_the_whole_volume(how, expected, tmp_path):
    path, module = network(tmp_path, widths=(4,), norm="none", usage=Usage(activation="none", normalization=how))
    with torch.no_grad():
        for weights in module.parameters():
            weights.zero_()
        module.down[0].shortcut.weight.fill_(1.0)
        module.head.weight[:] = 1 / 4
    save_model(module, module.config, path, usage=Usage(activation="none", normalization=how))
    volume = (np.random.default_rng(1).gamma(2, 100, (12, 20, 24))).astype(np.uint16)
    scaled = np.maximum(expected(volume.astype(np.float64)), 0)  # a network that passes on what is above 0
    np.testing.assert_allclose(found(small("exact", path), volume, (8, 8, 8)), scaled, rtol=1e-5, atol=1e-6)
    other = cf.Predict(path=path, normalization=Normalization(), threshold=None)  # the user's word counts
    np.testing.assert_allclose(found(other, volume), volume, rtol=1e-6)


def low(values: NDArray[np.float64], q: float) -> float:
    return float(np.percentile(values, q, method="inverted_cdf"))


def test_a_volume_of_one_value_cannot_be_scaled(tmp_path):
    path, _ = network(tmp_path, widths=(4,), norm="none")
    flat = np.full((8, 8, 8), 7, np.uint16)
    for kind, message in (("percentiles", "are both 7"), ("mean-sd", "all voxels of the volume are 7")):
        with pytest.raises(ConfigError, match=message):
            found(small("exact", path, normalization=Normalization(kind=kind)), flat)


# What becomes of the outputs.


def test_classes_are_the_largest_output_and_those_named_are_foreground(tmp_path):
    path, module = network(tmp_path, 3, widths=(4, 8), norm="none", out_channels=3)
    volume = image((17, 20, 22))
    module.head.bias -= torch.tensor([float(huge(module, volume, c).mean()) for c in range(3)])
    save_model(module, module.config, path)
    truth = np.argmax([huge(module, volume, c) for c in range(3)], axis=0)
    assert len(np.unique(truth)) == 3
    for foreground, wanted in ((None, truth > 0), ((2,), truth == 2)):
        stage = cf.Predict(path=path, output="classes", foreground=foreground)
        arrays = run_in_memory([stage, cf.Label()], volume, block=(8, 8, 8), save=("classes", "mask")).arrays
        np.testing.assert_array_equal(arrays["classes"], truth)
        np.testing.assert_array_equal(arrays["mask"], wanted)


def test_borders_distances_and_affinities_are_made_beside_the_foreground(tmp_path):
    usage = Usage(activation="sigmoid", outputs=("cell", "border", "depth", "left"))
    path, module = network(tmp_path, 4, widths=(4, 8), norm="none", out_channels=4, usage=usage)
    volume = image((12, 20, 22))
    truth = [1 / (1 + np.exp(-huge(module, volume, c))) for c in range(4)]
    stage = cf.Predict(path=path, channel="cell", borders=("border", 3), distances="depth")
    arrays = run_in_memory([stage], volume, block=ONE_BLOCK).arrays
    np.testing.assert_allclose(arrays["probability"], truth[0], atol=1e-5)
    np.testing.assert_allclose(arrays["predicted-borders"], (truth[1] + truth[3]) / 2, atol=1e-5)
    np.testing.assert_allclose(arrays["predicted-distances"], truth[2], atol=1e-5)
    stage = cf.Predict(path=path, affinities=(1, 3))
    arrays = run_in_memory([stage], volume, block=ONE_BLOCK).arrays
    np.testing.assert_allclose(arrays["predicted-borders"], 1 - (truth[1] + truth[3]) / 2, atol=1e-5)


@pytest.mark.parametrize("on", ["predicted-borders", "predicted-distances"])
def test_instances_flood_what_the_network_makes_for_them(on, tmp_path):
    path, _ = network(tmp_path, 4, widths=(4, 8), norm="none", out_channels=3)
    predict = cf.Predict(path=path, borders=1, distances=2, threshold=-10.0)
    stages = [predict, cf.Instances(on=on, h=0.01)]
    check_stage(stages, folder=tmp_path, cases=1, grids=1, largest=(16, 24, 24))
    with pytest.raises(ConfigError, match=f"on {on}, which no stage before it makes"):
        run_in_memory([cf.Predict(path=path), cf.Instances(on=on, h=0.01)], image((8, 8, 8)), block=ONE_BLOCK)


def test_a_restored_image_is_what_the_rest_of_the_pipeline_sees_and_keeps(tmp_path):
    path, module = network(tmp_path, 6, widths=(4, 8), norm="none")
    volume = image((17, 20, 22))
    source = write_volume(tmp_path / "in.ome.zarr", volume)
    stages = [cf.Predict(path=path, output="image"), cf.Threshold(), cf.Label(), cf.Measure(intensity="image")]
    result = cf.Pipeline(stages).plan(source, tmp_path / "out", block=(8, 8, 8)).run(on="serial")
    truth = huge(module, volume)
    np.testing.assert_allclose(result.image[:], truth, atol=1e-5)
    assert result.objects["intensity_max"].max() == pytest.approx(truth.max(), abs=1e-4)


def test_super_resolution_makes_the_grid_finer_and_keeps_the_field_of_view(tmp_path):
    path, module = network(tmp_path, 6, widths=(4, 8), norm="none", upsampling=(1, 2, 2))
    volume = image((9, 20, 22))
    source = write_volume(tmp_path / "in.ome.zarr", volume, (0.3, 0.2, 0.2), translation_um=(1.0, 2.0, 3.0))
    stages = [cf.Predict(path=path, output="image"), cf.Threshold(), cf.Label(), cf.Measure(intensity="image")]
    plan = cf.Pipeline(stages).plan(source, tmp_path / "out", block=(8, 16, 16))
    assert plan.shape == (9, 40, 44)
    assert plan.scale.voxel_um == pytest.approx((0.3, 0.1, 0.1))
    assert plan.scale.translation_um == pytest.approx((1.0, 1.95, 2.95))
    image_of = plan.run(on="serial").image
    padded = torch.from_numpy(np.pad(volume, ((8, 9), (16, 16), (16, 16)), mode="reflect"))[None, None]
    np.testing.assert_allclose(image_of[:], module(padded)[0, 0, 8:17, 32:72, 32:76], atol=1e-5)
    with pytest.raises(ConfigError, match="Use intensity: image"):
        cf.Pipeline([*stages[:3], cf.Measure()]).plan(source, tmp_path / "other")
    with pytest.raises(ModelError, match="Use output: image"):
        cf.Pipeline([cf.Predict(path=path)]).plan(source, tmp_path / "other")


# What follows from the network and its file.


def test_mode_patch_and_margin_follow_from_the_network_and_the_volume(tmp_path):
    cases = [
        ({"widths": (4, 8), "norm": "batch"}, (40, 50, 60), "exact", (8, 8, 8)),
        ({"widths": (4, 8), "norm": "group"}, (40, 50, 60), "blend", (16, 16, 16)),
        ({"widths": (2, 2, 2, 2, 2), "norm": "none"}, (40, 50, 60), "crop", (16, 16, 16)),
        (
            {"widths": (4, 8), "norm": "none", "kernels": ((1, 3, 3),), "pools": ((1, 2, 2),)},
            (5, 90, 90),
            "exact",
            (0, 8, 8),
        ),
    ]
    for parameters, shape, mode, margin in cases:
        path, _ = network(tmp_path, **parameters)
        source = write_volume(tmp_path / f"{len(list(tmp_path.iterdir()))}.ome.zarr", np.zeros(shape, np.uint8))
        plan = cf.Pipeline([small("auto", path)]).plan(source, tmp_path / "out")
        facts = plan.facts["network"]
        assert (facts["mode"], tuple(facts["margin"])) == (mode, margin)
        assert any("whole patch" in warning for warning in plan.warnings) == (mode == "blend")


def test_what_the_file_says_of_its_use_fills_in_what_is_left_open(tmp_path):
    usage = Usage(activation="sigmoid", threshold=0.51, voxel_um=(0.1, 0.1, 0.1), outputs=("cell",))
    path, module = network(tmp_path, widths=(4,), norm="none", usage=usage)
    volume = image((8, 9, 10))
    probability = 1 / (1 + np.exp(-huge(module, volume)))
    arrays = run_in_memory([cf.Predict(path=path), cf.Label()], volume, block=ONE_BLOCK, save=("mask",)).arrays
    np.testing.assert_array_equal(arrays["mask"], probability > 0.51)
    source = write_volume(tmp_path / "in.ome.zarr", volume, (0.2, 0.1, 0.1))
    plan = cf.Pipeline([cf.Predict(path=path), cf.Label()]).plan(source, tmp_path / "out")
    assert plan.facts["network"]["threshold"] == 0.51
    assert "was trained for voxels of [0.1, 0.1, 0.1] um and sees [0.2, 0.1, 0.1]" in " ".join(plan.warnings)


@pytest.mark.parametrize(
    ("trained_on_deconvolved", "told_raw", "told_deconvolved"),
    [(True, "no deconvolve stands in front of predict", ""), (False, "", "and sees deconvolved ones"), (None, "", "")],
)
def test_who_forgets_or_adds_a_deconvolution_is_told(tmp_path, trained_on_deconvolved, told_raw, told_deconvolved):
    path, _ = network(tmp_path, widths=(4,), norm="none", usage=Usage(deconvolved=trained_on_deconvolved))
    source = write_volume(tmp_path / "in.ome.zarr", image((8, 24, 24)), (0.1, 0.1, 0.1))
    deconvolve = cf.Deconvolve(psf=cf.Psf(fwhm_um=(0.2, 0.2, 0.2)), iterations=2)
    for before, told in (([], told_raw), ([deconvolve], told_deconvolved)):
        plan = cf.Pipeline([*before, cf.Predict(path=path), cf.Label()]).plan(source, tmp_path / "out")
        warnings = " ".join(warning for warning in plan.warnings if "deconvolve" in warning)
        assert told in warnings
        assert bool(told) == ("the network was trained on" in warnings)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"patch": 15}, PlanError, r"not a multiple of the network's stride \[2, 2, 2\].*Use \[16, 16, 16\]"),
        ({"patch": 16, "overlap": 6}, PlanError, r"not a multiple of \[4, 4, 4\].*Use \[8, 8, 8\]"),
        ({"patch": 16, "overlap": 16}, PlanError, "leaves nothing of patch"),
        ({"patch": 16, "mode": "exact"}, PlanError, r"looks \[8, 8, 8\] voxels"),
        ({"overlap": 8, "mode": "exact"}, ConfigError, "both given"),
        ({"channel": 2}, ModelError, "Count channels from 0"),
        ({"channel": "nuclei"}, ModelError, "no output 'nuclei'"),
        ({"path": "nowhere"}, ModelError, "nowhere"),
    ],
)
def test_what_does_not_fit_the_network_is_said_before_anything_starts(options, error, message, tmp_path):
    path, _ = network(tmp_path, widths=(4, 8), norm="none", out_channels=2)
    source = write_volume(tmp_path / "in.ome.zarr", image((24, 24, 24)))
    with pytest.raises(error, match=message):
        cf.Pipeline([cf.Predict(**{"path": path, **options})]).plan(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch 0"),
        ({"patch": 0}, "patch 0 is too small"),
        ({"foreground": (1,)}, "foreground"),
        ({"borders": 1, "affinities": (1, 2)}, "both given"),
        ({"affinities": (1, 2), "turns": "flips"}, "turn too"),
        ({"output": "image", "threshold": 0.5}, "threshold 0.5 with output image"),
        ({"mode": "valid"}, "mode"),
        ({"normalization": "percentiles"}, "normalization"),
    ],
)
def test_parameters_that_make_no_sense_together_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        cf.Predict(path="x", **options)


def test_a_network_of_several_channels_is_refused_before_anything_starts(tmp_path):
    path, _ = network(tmp_path, widths=(4, 8), norm="none", in_channels=2)
    with pytest.raises(ModelError, match="takes 2 channels"):
        run_in_memory([small("auto", path)], image((16, 16, 16)), block=ONE_BLOCK)


# What differs in y and x, and what a network insists on.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": (8, 16, 32)}, r"patch \[8, 16, 32\] cannot be turned"),
        ({"patch": 16, "overlap": (0, 4, 8)}, r"overlap \[0, 4, 8\] cannot be turned"),
    ],
)
def test_patches_that_cannot_be_turned_are_refused_before_a_run(options, message, tmp_path):
    path, _ = network(tmp_path, widths=(4, 6), norm="none")
    with pytest.raises(PlanError, match=message):
        found(small("crop", path, turns="plane", **options), image((12, 20, 22)))


def test_networks_of_other_strides_and_reaches_in_y_and_x_are_turned_exactly(tmp_path, monkeypatch):
    """The mean over eight huge forward passes: patches and margins are square, in whole strides of both axes."""
    path, module = network(tmp_path, widths=(4, 6), norm="none", pools=((1, 2, 3),), kernels=((3, 3, 5),))
    volume = image((6, 48, 30))
    monkeypatch.setattr(patches, "SIDES", (16,))
    truth = np.zeros(volume.shape)
    for flip, quarter in product((1, -1), range(4)):
        turned = np.rot90(volume[:, :, ::flip], quarter, (1, 2)).copy()
        truth += np.rot90(huge(module, turned), -quarter, (1, 2))[:, :, ::flip] / 8
    result = found(small("exact", path, turns="plane"), volume)
    np.testing.assert_allclose(result, truth, atol=1e-5, rtol=0)
    assert np.ptp(truth) > 1e-2


@pytest.mark.parametrize("norm", ["none", "group"])
def test_a_side_that_a_network_insists_on_is_that_of_every_patch(norm, tmp_path):
    path, _ = network(tmp_path, widths=(4,), norm=norm)
    model = replace(load_model(path), patch=(None, 32, None))
    wishes = patches.PatchWishes(mode=None, patch=None, overlap=None, batch=1, square=False)
    _, lattice = patches.settled(model, (10, 50, 40), wishes)
    assert lattice.patch[1] == 32
    assert lattice.patch[0] < 64


# What a plan refuses.


@pytest.mark.parametrize("more", [{}, {"borders": 0}, {"distances": 0, "mode": "blend", "patch": 8, "turns": "flips"}])
def test_the_largest_of_outputs_far_above_0_is_told(more, tmp_path):
    """Sigmoids of 20 and of 30 are both 1 in float32; what is made beside the classes stays a sigmoid."""
    path, module = network(tmp_path, widths=(4,), norm="none", out_channels=2)
    module.head.weight.zero_()
    module.head.bias[:] = torch.tensor([20.0, 30.0])
    save_model(module, module.config, path, usage=Usage())
    stage = cf.Predict(path=path, output="classes", **more)
    arrays = run_in_memory([stage], image((8, 8, 8)), block=ONE_BLOCK, save=("classes",)).arrays
    assert np.all(arrays["classes"] == 1)
    assert all(np.all(arrays[name] == 1) for name in arrays if name.startswith("predicted-"))


def test_channels_and_classes_that_are_not_there_are_refused_before_a_run(tmp_path):
    volume = write_volume(tmp_path / "in.ome.zarr", image((8, 8, 8)))
    two, _ = network(tmp_path, widths=(4,), in_channels=2)
    with pytest.raises(ModelError, match="takes 2 channels, and the image has 1 channel"):
        cf.Pipeline([cf.Predict(path=two)]).plan(volume, tmp_path / "out")
    three, _ = network(tmp_path, widths=(4,), out_channels=3)
    with pytest.raises(ModelError, match=r"foreground \[1, 7\] of a network with 3 outputs"):
        cf.Pipeline([cf.Predict(path=three, output="classes", foreground=(1, 7))]).plan(volume, tmp_path / "out")
