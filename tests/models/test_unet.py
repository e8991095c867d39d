"""The shipped architecture: its config is checked, its stride is the real one."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

from chunkflow.errors import ModelError  # noqa: E402
from chunkflow.models import layers  # noqa: E402
from chunkflow.models import planes as by_planes  # noqa: E402
from chunkflow.models.alive import Alive  # noqa: E402
from chunkflow.models.unet import UNet, UNetConfig  # noqa: E402


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("widths", [(4,), (4, 8), (3, 5, 8)])
def test_the_output_has_the_shape_of_the_input_and_the_channels_asked_for(norm, widths):
    config = UNetConfig(in_channels=2, out_channels=3, widths=widths, norm=norm, kernels=((1, 3, 5),))
    shape = tuple(n * s for n, s in zip((1, 2, 3), config.stride, strict=True))
    torch.manual_seed(0)
    with torch.inference_mode():
        assert UNet(config).eval()(torch.rand(2, 2, *shape)).shape == (2, 3, *shape)


def test_the_output_moves_with_the_input_by_the_stride_and_not_by_less():
    """Far from the borders, with stored statistics: the reason why lattice steps are multiples of the stride."""
    torch.manual_seed(1)
    config = UNetConfig(widths=(2, 3, 4), norm="batch")
    network = UNet(config).eval()
    line, step = torch.rand(1, 1, 4, 4, 120), config.stride[2]
    with torch.inference_mode():
        still = network(line[..., :112])
        moved = network(line[..., step : 112 + step])
        astray = network(line[..., 2:114])
    middle = slice(48, 64)
    torch.testing.assert_close(moved[..., middle], still[..., 48 + step : 64 + step])
    assert (astray[..., middle] - still[..., 50:66]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("parameters", "stride"),
    [
        ({"widths": (4, 8, 8)}, (4, 4, 4)),
        ({"widths": (4, 8), "stem": (1, 2, 3)}, (2, 4, 6)),
        ({"widths": (4, 8), "stem": (4, 4, 4), "upsampling": (1, 2, 1)}, (8, 8, 8)),
        ({"widths": (4, 8, 8), "pools": ((1, 2, 2), (2, 3, 2)), "kernels": ((1, 3, 3), (3, 3, 3))}, (2, 6, 4)),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_what_is_left_out_changes_nothing_of_the_rest(parameters, stride, last):
    torch.manual_seed(2)
    config = UNetConfig(norm="none", **parameters)
    assert config.stride == stride
    network = UNet(config).double().eval().requires_grad_(False)
    if last:
        network = network.to(memory_format=torch.channels_last_3d)
    image = torch.rand(2, 1, *(6 * s for s in stride), dtype=torch.float64)
    whole = network(image)
    assert whole.shape[2:] == tuple(6 * s * f for s, f in zip(stride, config.upsampling, strict=True))
    for count in (1, 2):
        margin = tuple(count * s for s in stride)
        z, y, x = (slice(m * f, -m * f) for m, f in zip(margin, config.upsampling, strict=True))
        torch.testing.assert_close(network(image, margin), whole[:, :, z, y, x], rtol=0, atol=1e-12)


def test_statistics_that_are_folded_into_convolutions_change_no_more_than_rounding():
    torch.manual_seed(3)
    network = UNet(UNetConfig(widths=(4, 8), norm="batch", stem=(2, 2, 2))).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.inference_mode():
        before = network(image)
        torch.testing.assert_close(network.fold()(image), before, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, torch.nn.BatchNorm3d) for module in network.modules())


@pytest.mark.parametrize("last", [False, True])
def test_pointwise_convolutions_and_growth_are_those_of_torch(last):
    torch.manual_seed(4)
    image = torch.rand(2, 3, 4, 5, 6)
    image = image.contiguous(memory_format=torch.channels_last_3d) if last else image
    for ours, theirs in (
        (layers.Pointwise(3, 7, 1), torch.nn.Conv3d(3, 7, 1)),
        (layers.Growth(3, 5, (1, 2, 3), stride=(1, 2, 3)), torch.nn.ConvTranspose3d(3, 5, (1, 2, 3), stride=(1, 2, 3))),
    ):
        theirs.load_state_dict(ours.state_dict())
        found = ours(image)
        torch.testing.assert_close(found, theirs(image), rtol=1e-5, atol=1e-6)
        assert found.is_contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format)


def test_networks_of_planes_look_at_one_plane_or_at_five():
    torch.manual_seed(5)
    image = torch.rand(1, 1, 9, 8, 8)
    other = image.clone()
    other[:, :, 4] += 1
    for dimensions, planes in (("2d", [4]), ("2.5d", [2, 3, 4, 5, 6])):
        config = UNetConfig.of(dimensions, widths=(4, 8), norm="none")
        network = UNet(config).eval().requires_grad_(False)
        differs = (network(image) != network(other)).flatten(3).any(3)[0, 0]
        # Two convolutions of five planes see nine, of which those at the rim may cancel to nothing.
        assert {p for p in range(9) if differs[p]} >= set(planes)
        assert dimensions == "2.5d" or differs.sum() == 1
        assert config.stride == (1, 2, 2)


def test_the_encoder_is_what_comes_before_the_way_up():
    network = UNet(UNetConfig(widths=(4, 8), norm="batch", stem=(2, 2, 2)))
    encoder = {id(p) for p in network.encoder()}
    names = {name for name, p in network.named_parameters() if id(p) in encoder}
    assert names == {name for name, _ in network.named_parameters() if name.startswith(("stem", "down"))}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": [8, 16]}, "Did you mean 'widths'"),
        ({"widths": []}, "widths"),
        ({"stem": [0, 1, 1]}, "stem"),
        ({"pools": [[2, 2, 2]] * 3}, "1 to 2 lists"),
        ({"widths": [8] * 9}, "1 to 8"),
        ({"widths": "abc"}, "widths"),
        ({"out_channels": 0}, "out_channels is 0"),
        ({"in_channels": True}, "in_channels is True"),
        ({"norm": "layer"}, "group or batch"),
        ({"kernels": [[2, 3, 3]]}, "odd numbers"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_would_do(values, message):
    with pytest.raises(ModelError, match=message):
        UNetConfig.from_dict(values)


def test_a_config_survives_its_dictionary():
    config = UNetConfig(out_channels=2, widths=(8, 24), norm="batch", kernels=((1, 3, 3),))
    assert UNetConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize(
    "parameters",
    [
        {"widths": (6,)},
        {"widths": (4, 6)},
        {"widths": (3, 5, 8), "out_channels": 2, "in_channels": 2},
        {"widths": (4, 8, 8), "pools": ((1, 2, 2), (2, 2, 2)), "kernels": ((1, 3, 3), (3, 3, 3))},
        {"widths": (4, 8), "pools": ((4, 2, 2),), "kernels": ((5, 3, 3),)},
    ],
)
@pytest.mark.parametrize("slab", [1, 2**13])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("last", [False, True])
def test_a_patch_by_planes_is_a_patch_as_a_whole(norm, parameters, slab, dtype, most, last, monkeypatch):
    torch.manual_seed(6)
    config = UNetConfig(norm=norm, **parameters)
    network = UNet(config).to(dtype).eval()
    if last:
        network = network.to(memory_format=torch.channels_last_3d)
    image = torch.rand(2, config.in_channels, *(7 * s for s in config.stride), dtype=dtype)
    monkeypatch.setattr(by_planes, "SLAB_BYTES", slab)
    for count in (0, 1, 2):
        margin = tuple(count * s for s in config.stride)
        with torch.inference_mode():
            assert network._goes_by_planes(image)
            whole = network(image, margin, whole=True)
            torch.testing.assert_close(network(image, margin), whole, rtol=0, atol=most)


def test_planes_keep_the_precision_of_autocast(monkeypatch):
    torch.manual_seed(6)
    network = UNet(UNetConfig(widths=(8, 8), norm="batch")).eval().fold().to(memory_format=torch.channels_last_3d)
    image = torch.rand(1, 1, 16, 16, 16)
    monkeypatch.setattr(by_planes, "SLAB_BYTES", 2**11)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found, whole = network(image), network(image, whole=True)
    assert found.dtype == whole.dtype == torch.bfloat16
    torch.testing.assert_close(found, whole, rtol=0.02, atol=0.02)


def test_a_patch_by_planes_holds_less_than_half_of_one_as_a_whole(monkeypatch):
    network = UNet(UNetConfig(widths=(16, 32, 64), norm="batch")).eval().fold().to("meta")
    image = torch.empty(1, 1, 176, 176, 176, device="meta")
    taken = []
    for slab in (by_planes.SLAB_BYTES, 2**40):
        monkeypatch.setattr(by_planes, "SLAB_BYTES", slab)
        with torch.inference_mode(), Alive() as alive:
            network(image, (24, 24, 24))
        taken.append(alive.peak)
    assert taken[0] < taken[1] / 2, taken
