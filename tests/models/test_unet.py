"""The shipped architecture: its config is checked, its stride is the real one."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

from chunkflow.errors import ModelError  # noqa: E402
from chunkflow.models.unet import UNet, UNetConfig  # noqa: E402


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("widths", [(4,), (4, 8), (3, 5, 8)])
def test_the_output_has_the_shape_of_the_input_and_the_channels_asked_for(norm, widths):
    config = UNetConfig(in_channels=2, out_channels=3, widths=widths, norm=norm, first_kernel=(1, 3, 5))
    shape = (config.stride, 2 * config.stride, 3 * config.stride)
    torch.manual_seed(0)
    with torch.inference_mode():
        assert UNet(config).eval()(torch.rand(2, 2, *shape)).shape == (2, 3, *shape)


def test_the_output_moves_with_the_input_by_the_stride_and_not_by_less():
    """Far from the borders, with stored statistics: the reason why lattice steps are multiples of the stride."""
    torch.manual_seed(1)
    config = UNetConfig(widths=(2, 3, 4), norm="batch")
    network = UNet(config).eval()
    line = torch.rand(1, 1, 4, 4, 120)
    with torch.inference_mode():
        still = network(line[..., :112])
        moved = network(line[..., config.stride : 112 + config.stride])
        astray = network(line[..., 2:114])
    middle = slice(48, 64)
    torch.testing.assert_close(moved[..., middle], still[..., 48 + config.stride : 64 + config.stride])
    assert (astray[..., middle] - still[..., 50:66]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": [8, 16]}, "Did you mean 'widths'"),
        ({"widths": []}, "widths"),
        ({"widths": [8] * 9}, "1 to 8"),
        ({"widths": "abc"}, "widths"),
        ({"out_channels": 0}, "out_channels is 0"),
        ({"in_channels": True}, "in_channels is True"),
        ({"norm": "instance"}, "group or batch"),
        ({"first_kernel": [2, 3, 3]}, "three odd numbers"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_would_do(values, message):
    with pytest.raises(ModelError, match=message):
        UNetConfig.from_dict(values)


def test_a_config_survives_its_dictionary():
    config = UNetConfig(out_channels=2, widths=(8, 24), norm="batch", first_kernel=(1, 3, 3))
    assert UNetConfig.from_dict(config.to_dict()) == config
