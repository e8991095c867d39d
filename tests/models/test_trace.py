"""What is found by watching a network: how far it looks, and its memory."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

from torch import nn  # noqa: E402

from chunkflow.models import Model  # noqa: E402
from chunkflow.models.trace import inner_output, peak_bytes, reach  # noqa: E402
from chunkflow.models.unet import UNet, UNetConfig  # noqa: E402


def model_of(module, stride=(1, 1, 1), **more) -> Model:
    return Model(module.eval().requires_grad_(False), "", stride, 1, "cpu", **more)


def unet(**parameters) -> Model:
    torch.manual_seed(0)
    config = UNetConfig(**parameters)
    network = UNet(config).eval().requires_grad_(False)
    return Model(network, "", config.stride, config.out_channels, "cpu", upsampling=config.upsampling)


@pytest.mark.parametrize(
    ("module", "far"),
    [
        (nn.Conv3d(1, 1, 1), (0, 0, 0)),
        (nn.Conv3d(1, 1, (1, 3, 7), padding="same"), (0, 1, 3)),
        (nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv3d(2, 1, 3, padding=1)), (2, 2, 2)),
        (nn.Conv3d(1, 1, 3, padding="same", dilation=(1, 2, 5)), (1, 2, 5)),
        (nn.MaxPool3d(5, stride=1, padding=2), (2, 2, 2)),
    ],
)
def test_how_far_a_network_looks_is_the_sum_of_its_kernels(module, far):
    assert reach(model_of(module)) == far


def test_a_network_that_weighs_its_surroundings_by_zero_looks_as_far():
    convolution = nn.Conv3d(1, 1, 3, padding=1)
    nn.init.zeros_(convolution.weight)
    assert reach(model_of(convolution)) == (1, 1, 1)


@pytest.mark.parametrize("norm", ["group", "instance"])
def test_statistics_of_the_whole_patch_are_noticed(norm):
    assert reach(unet(widths=(4, 8), norm=norm)) is None


@pytest.mark.parametrize(
    "parameters",
    [
        {"widths": (2, 3)},
        {"widths": (2, 3, 4)},
        {"widths": (2, 3), "stem": (1, 2, 2)},
        {"widths": (2, 3), "upsampling": (2, 1, 1)},
        {"widths": (2, 3), "pools": ((1, 3, 2),), "kernels": ((1, 3, 5), (3, 3, 3))},
    ],
)
def test_outputs_as_far_inside_a_patch_as_the_network_looks_know_nothing_of_what_is_outside(parameters):
    """And a stride less would not do: the reach is exact."""
    model = unet(norm="none", **parameters)
    far, finer = reach(model), model.upsampling
    for weights in model.module.double().parameters():
        weights.abs_()  # nothing cancels and no ReLU is shut, so that the rim of what is seen can be told
    rng = np.random.default_rng(0)
    for axis in range(3):
        stride = model.stride[axis]
        shape = list(model.stride)
        shape[axis] = 6 * far[axis] + 2 * stride
        line = torch.from_numpy(rng.random((1, 1, *shape)))
        line.narrow(2 + axis, far[axis], stride).mul_(1e3)  # at the rim of what is seen: it wins every maximum
        with torch.inference_mode():
            whole = model.module(line)

        def differences(margin, whole=whole, line=line, axis=axis, stride=stride):
            start, stop = 2 * far[axis], 4 * far[axis] + stride
            cut = line.narrow(2 + axis, start - margin, stop - start + 2 * margin)
            with torch.inference_mode():
                part = model.module(cut)
            f = finer[axis]
            inner = part.narrow(2 + axis, margin * f, (stop - start) * f)
            return (inner - whole.narrow(2 + axis, start * f, (stop - start) * f)).abs().max()

        assert differences(far[axis]) < 1e-12
        assert far[axis] == 0 or differences(far[axis] - stride) > 1e-12


def test_a_network_that_takes_one_shape_alone_cannot_be_watched():
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(1, 1, 8, 8, 8)

    assert reach(model_of(Fixed())) is None


class Coarse(nn.Module):
    """Half the resolution and back; `corners` spreads the voxels over the length of the patch."""

    def __init__(self, *, corners: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(1, 1, 3, padding=1)
        self.corners = corners if corners else None
        self.mode = "trilinear" if corners else "nearest"

    def forward(self, x):
        inner = nn.functional.max_pool3d(self.convolution(x), 2, ceil_mode=True)
        return nn.functional.interpolate(inner, size=x.shape[2:], mode=self.mode, align_corners=self.corners)


@pytest.mark.parametrize(("corners", "stride", "far"), [(False, 2, (2, 2, 2)), (True, 2, None), (False, 1, None)])
def test_a_network_that_looks_near_by_and_does_not_move_with_its_input_is_noticed(corners, stride, far):
    """Voxels spread over the length of the patch, and a stride that nobody stated."""
    assert reach(model_of(Coarse(corners=corners), stride=(stride,) * 3)) == far


def test_what_a_runtime_raises_of_its_own_means_one_shape_alone():
    class Foreign(Exception):
        pass

    class Fixed(nn.Module):
        def forward(self, x):
            raise Foreign

    assert reach(model_of(Fixed())) is None


def test_a_network_that_takes_no_thin_line_is_watched_on_the_smallest_patch_it_takes():
    module = nn.Conv3d(1, 1, 3, padding=1, padding_mode="reflect")  # reflects what is at least two voxels long
    assert reach(model_of(module, patch_min=(4, 4, 4))) == (1, 1, 1)


def test_the_memory_of_two_convolutions_is_that_of_the_arrays_that_live_together():
    """The image, and what each convolution makes: 4 channels, then 2, the first alive until the second is done."""
    module = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 2, 3, padding=1), nn.Conv3d(2, 1, 1))
    assert peak_bytes(model_of(module), (8, 10, 12), batch=3) == 3 * 8 * 10 * 12 * 4 * (1 + 4 + 2)


def test_a_margin_that_is_not_wanted_saves_memory_and_work():
    model = unet(widths=(8, 16, 32), norm="none")
    assert peak_bytes(model, (64, 64, 64), margin=(24, 24, 24)) < peak_bytes(model, (64, 64, 64))
    assert inner_output(model, torch.zeros(1, 1, 64, 64, 64), (24, 24, 24)).shape[2:] == (16, 16, 16)
