"""Applying networks: the same patch gives the same bits, the same voxel the same bits from every box."""

import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

from chunkflow.errors import ConfigError, ModelError  # noqa: E402
from chunkflow.kernels.blend import (  # noqa: E402
    blend,
    cut_patch,
    gaussian_weights,
    patch_starts,
    patches_touching,
    read_box,
)
from chunkflow.models import Model, predict  # noqa: E402
from chunkflow.models.unet import UNet, UNetConfig  # noqa: E402


def random_model(**parameters) -> Model:
    torch.manual_seed(7)
    config = UNetConfig(**parameters)
    network = UNet(config).eval().requires_grad_(False)
    return Model(network, "0" * 64, config.stride, config.out_channels, "cpu")


class Scaled(torch.nn.Module):
    """A network of a few lines: what it gives is what `function` makes of the patches."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def model_of(function, *, stride=1, out_channels=1) -> Model:
    return Model(Scaled(function), "0" * 64, stride, out_channels, "cpu")


@pytest.fixture
def patches():
    return np.random.default_rng(0).random((5, 1, 8, 12, 16), dtype=np.float32)


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("shape", [(8, 12, 16), (7, 9, 11)])
def test_a_patch_gives_the_same_bits_alone_in_any_place_of_a_batch_and_from_any_thread(norm, shape):
    widths = (8, 16) if shape[0] % 2 == 0 else (8,)
    model = random_model(widths=widths, norm=norm, out_channels=2)
    patches = np.random.default_rng(1).random((5, 1, *shape), dtype=np.float32)
    for activation in ("sigmoid", "softmax"):
        alone = np.concatenate([predict(model, patches[i : i + 1], activation=activation, batch=4) for i in range(5)])
        together = predict(model, patches, activation=activation, batch=4)
        turned = predict(model, patches[::-1], activation=activation, batch=4)[::-1]
        assert together.tobytes() == alone.tobytes() == np.ascontiguousarray(turned).tobytes()
        found = []
        thread = threading.Thread(
            target=lambda a=activation, f=found: f.append(predict(model, patches, activation=a, batch=4))
        )
        thread.start()
        thread.join()
        assert found[0].tobytes() == together.tobytes()


def test_one_cpu_thread_computes_whatever_the_process_was_set_to(patches):
    torch.set_num_threads(2)
    seen = []
    predict(model_of(lambda x: seen.append(torch.get_num_threads()) or x), patches[:1])
    assert seen == [1]


def test_the_last_batch_is_filled_up_with_zero_patches(patches):
    seen = []
    model = model_of(lambda x: seen.append(x.clone()) or x)
    predict(model, patches, activation="none", batch=3)
    assert [len(batch) for batch in seen] == [3, 3]
    assert not seen[1][2].any()


def test_activations_are_those_of_their_formulas(patches):
    model = model_of(lambda x: torch.cat((x, 2 * x, -x), dim=1), out_channels=3)
    logits = np.concatenate((patches, 2 * patches, -patches), axis=1).astype(np.float64)
    np.testing.assert_array_equal(predict(model, patches, activation="none", channel=1), logits[:, 1])
    sigmoid = 1 / (1 + np.exp(-logits[:, 2]))
    np.testing.assert_allclose(predict(model, patches, channel=2), sigmoid, rtol=1e-6)
    softmax = np.exp(logits)[:, 1] / np.exp(logits).sum(axis=1)
    np.testing.assert_allclose(predict(model, patches, activation="softmax", channel=1, batch=2), softmax, rtol=1e-6)


def test_patches_are_neither_changed_nor_need_to_be_writable(patches):
    before = patches.copy()
    patches.flags.writeable = False
    predict(model_of(lambda x: x.mul_(2)), patches)
    np.testing.assert_array_equal(patches, before)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[..., 1:], r"gives \(1, 1, 8, 12, 15\) for patches \(1, 1, 8, 12, 16\)"),
        (lambda x: torch.cat((x, x), dim=1), r"gives \(1, 2, 8, 12, 16\)"),
        (lambda x: (x, x), "gives tuple"),
        (lambda x: x / 0, "NaN or infinity"),
        (lambda x: x @ torch.zeros(3, 3), r"cannot be applied to patches \(1, 1, 8, 12, 16\)"),
    ],
)
def test_a_network_that_gives_something_else_than_finite_values_of_the_patch_is_refused(patches, function, message):
    with pytest.raises(ModelError, match=message):
        predict(model_of(function), patches)


def test_requests_that_do_not_fit_the_network_name_what_would(patches):
    with pytest.raises(ModelError, match="Give a channel from 0 to 1"):
        predict(model_of(lambda x: x, out_channels=2), patches, channel=2)
    with pytest.raises(ModelError, match=r"stride 8. Use \[8, 16, 16\]"):
        predict(model_of(lambda x: x, stride=8), patches)
    with pytest.raises(ConfigError, match="Did you mean 'sigmoid'"):
        predict(model_of(lambda x: x), patches, activation="sigmod")
    with pytest.raises(ConfigError, match="batch 0"):
        predict(model_of(lambda x: x), patches, batch=0)


def blended(model, volume, core_start, core_stop, *, patch, overlap, batch):
    """The probability of a core, from nothing but its read box, in batches as a worker would take them."""
    shape = volume.shape
    starts = tuple(patch_starts(n, p, overlap, model.stride) for n, p in zip(shape, patch, strict=True))
    begin, end = read_box(core_start, core_stop, starts, patch, shape)
    read = volume[tuple(slice(a, b) for a, b in zip(begin, end, strict=True))]
    firsts = [
        tuple(line[i] for line, i in zip(starts, index, strict=True))
        for index in patches_touching(core_start, core_stop, starts, patch)
    ]
    cut = np.stack([cut_patch(read, begin, first, patch, shape)[None] for first in firsts])
    predictions = zip(firsts, predict(model, cut, batch=batch), strict=True)
    return blend(predictions, gaussian_weights(patch), core_start=core_start, core_stop=core_stop)


@pytest.mark.parametrize(("norm", "batch"), [("group", 1), ("batch", 3)])
def test_a_blended_prediction_has_the_same_bits_whatever_the_box(norm, batch):
    rng = np.random.default_rng(2)
    model = random_model(widths=(4, 8, 8), norm=norm)
    volume = rng.random((21, 37, 30), dtype=np.float32)
    options = {"patch": (16, 16, 20), "overlap": 8, "batch": batch}
    whole = blended(model, volume, (0, 0, 0), volume.shape, **options)
    assert np.ptp(whole) > 1e-3
    for _ in range(6):
        start = tuple(int(rng.integers(0, n)) for n in volume.shape)
        stop = tuple(int(rng.integers(a + 1, n + 1)) for a, n in zip(start, volume.shape, strict=True))
        part = blended(model, volume, start, stop, **options)
        expected = whole[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        assert part.tobytes() == np.ascontiguousarray(expected).tobytes()
