"""Applying networks: the same patch gives the same bits, alone or in a batch; what it gives is checked."""

import copy
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

from chunkflow.backend import is_out_of_device_memory, is_out_of_memory  # noqa: E402
from chunkflow.errors import BlockMemoryError, ConfigError, ModelError  # noqa: E402
from chunkflow.models import Application, Model, predict  # noqa: E402
from chunkflow.models.predict import TURNS, prepared  # noqa: E402
from chunkflow.models.unet import UNet, UNetConfig  # noqa: E402

RAW = Application(activation="none")


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


def model_of(function, *, stride=(1, 1, 1), out_channels=1, **more) -> Model:
    return Model(Scaled(function), "0" * 64, stride, out_channels, "cpu", **more)


@pytest.fixture
def patches():
    return np.random.default_rng(0).random((5, 1, 8, 12, 16), dtype=np.float32)


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("shape", [(8, 12, 16), (7, 9, 11)])
def test_a_patch_gives_the_same_bits_whatever_else_is_in_its_batch_and_from_any_thread(norm, shape):
    model = random_model(widths=(8, 16) if shape[0] % 2 == 0 else (8,), norm=norm, out_channels=2)
    rng = np.random.default_rng(1)
    patches = rng.random((4, 1, *shape), dtype=np.float32)
    for activation in ("sigmoid", "softmax"):
        how = Application(activation=activation, batch=4)
        together = predict(model, patches, how)
        for i in range(4):
            others = rng.random(patches.shape, dtype=np.float32)
            others[i] = patches[i]
            assert predict(model, others, how)[i].tobytes() == together[i].tobytes()
        assert predict(model, patches[:3], how).tobytes() == together[:3].tobytes()
        found = []
        thread = threading.Thread(target=lambda h=how, f=found: f.append(predict(model, patches, h)))
        thread.start()
        thread.join()
        assert found[0].tobytes() == together.tobytes()


def test_one_cpu_thread_computes_whatever_the_process_was_set_to(patches):
    torch.set_num_threads(2)
    seen = []
    predict(model_of(lambda x: seen.append(torch.get_num_threads()) or x), patches[:1], RAW)
    assert seen == [1]


def test_the_last_batch_is_filled_up_with_zero_patches(patches):
    seen = []
    model = model_of(lambda x: seen.append(x.clone()) or x)
    predict(model, patches, Application(activation="none", batch=3))
    assert [len(batch) for batch in seen] == [3, 3]
    assert not seen[1][2].any()


def test_activations_are_those_of_their_formulas(patches):
    model = model_of(lambda x: torch.cat((x, 2 * x, -x), dim=1), out_channels=3)
    outputs = np.concatenate((patches, 2 * patches, -patches), axis=1).astype(np.float64)
    chosen = predict(model, patches, Application(activation="none", channels=(1, 0)))
    np.testing.assert_array_equal(chosen, outputs[:, [1, 0]])
    sigmoid = 1 / (1 + np.exp(-outputs[:, 2:]))
    np.testing.assert_allclose(predict(model, patches, Application(channels=(2,))), sigmoid, rtol=1e-6)
    softmax = np.exp(outputs)[:, 1:2] / np.exp(outputs).sum(axis=1, keepdims=True)
    how = Application(activation="softmax", channels=(1,), batch=2)
    np.testing.assert_allclose(predict(model, patches, how), softmax, rtol=1e-6)


def test_patches_are_neither_changed_nor_need_to_be_writable(patches):
    before = patches.copy()
    for writable in (True, False):
        patches.flags.writeable = writable
        predict(model_of(lambda x: x.mul_(2)), patches, RAW)
        np.testing.assert_array_equal(patches, before)


def test_finite_values_whose_sum_is_not_are_let_through(patches):
    found = predict(model_of(lambda x: torch.full_like(x, 3e38)), patches, RAW)
    assert found.min() == found.max() == np.float32(3e38)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[..., 1:], r"gives \(1, 1, 8, 12, 15\) for patches \(1, 1, 8, 12, 16\)"),
        (lambda x: torch.cat((x, x), dim=1), r"gives \(1, 2, 8, 12, 16\)"),
        (lambda x: (x, x), "gives tuple"),
        (lambda x: x / 0, "NaN or infinity"),
        (lambda x: torch.where(x == x.max(), torch.nan, x), "NaN or infinity"),
        (lambda x: x @ torch.zeros(3, 3), r"cannot be applied to patches \(1, 1, 8, 12, 16\)"),
    ],
)
def test_a_network_that_gives_something_else_than_finite_values_of_the_patch_is_refused(patches, function, message):
    with pytest.raises(ModelError, match=message):
        predict(model_of(function), patches, RAW)


def test_requests_that_do_not_fit_the_network_name_what_would(patches):
    with pytest.raises(ModelError, match="Give a channel from 0 to 1"):
        predict(model_of(lambda x: x, out_channels=2), patches, Application(channels=(2,)))
    with pytest.raises(ModelError, match=r"stride \(8, 8, 8\). Use \[8, 16, 16\]"):
        predict(model_of(lambda x: x, stride=(8, 8, 8)), patches, RAW)
    with pytest.raises(ModelError, match="takes 2 channels, not 1"):
        predict(model_of(lambda x: x, in_channels=2), patches, RAW)
    with pytest.raises(ModelError, match=r"cannot be turned in its plane.*as many voxels in y as in x"):
        predict(model_of(lambda x: x), patches, Application(turns="plane"))
    with pytest.raises(ModelError, match="float16 on a CPU"):
        predict(model_of(lambda x: x), patches, Application(precision="float16"))
    with pytest.raises(ConfigError, match="Did you mean 'sigmoid'"):
        Application(activation="sigmod")
    with pytest.raises(ConfigError, match="batch 0"):
        Application(batch=0)


@pytest.mark.parametrize(("turns", "count"), TURNS.items())
def test_turns_show_the_network_that_many_different_patches_and_turn_the_answers_back(turns, count):
    patch = np.random.default_rng(3).random((1, 1, 4, 6, 6), dtype=np.float32)
    seen = []
    kept = predict(
        model_of(lambda x: seen.append(x.numpy().tobytes()) or x), patch, Application(turns=turns, activation="none")
    )
    assert len(set(seen)) == count
    np.testing.assert_allclose(kept, patch, rtol=1e-6)  # a network that changes nothing: every way back is right


def test_the_mean_over_flips_is_that_of_the_flipped_answers():
    model, patch = (
        random_model(widths=(4, 8), norm="batch"),
        np.random.default_rng(4).random((1, 1, 8, 8, 8), np.float32),
    )
    ways = [[axis for axis in (2, 3, 4) if number & 1 << axis - 2] for number in range(8)]
    one_by_one = [np.flip(predict(model, np.flip(patch, way).copy(), RAW), way) for way in ways]
    turned = predict(model, patch, Application(activation="none", turns="flips"))
    np.testing.assert_allclose(turned, np.mean(one_by_one, axis=0), atol=1e-6)
    assert np.abs(turned - one_by_one[0]).max() > 1e-4


@pytest.mark.parametrize("upsampling", [(1, 1, 1), (1, 2, 3)])
def test_a_margin_is_left_out_on_every_side_of_a_network_of_any_kind(upsampling):
    config = UNetConfig(widths=(4,), norm="none", upsampling=upsampling)
    torch.manual_seed(0)
    network = UNet(config).eval().requires_grad_(False)
    patch = np.random.default_rng(5).random((1, 1, 10, 12, 14), np.float32)
    whole = predict(Model(network, "", (1, 1, 1), 1, "cpu", upsampling=upsampling), patch, RAW)
    margin = (1, 2, 3)
    inner = tuple(slice(m * f, -m * f) for m, f in zip(margin, upsampling, strict=True))
    for module in (network, Scaled(network)):
        model = Model(module, "", (1, 1, 1), 1, "cpu", upsampling=upsampling)
        found = predict(model, patch, Application(activation="none", margin=margin))
        np.testing.assert_allclose(found, whole[(slice(None), slice(None), *inner)], atol=1e-6)


def test_memory_that_is_full_is_tried_again_and_then_the_block_is_set_aside_with_a_batch_that_fits():
    calls = []

    def full(x):
        calls.append(len(x))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(BlockMemoryError, match="a batch of 4 patches .* does not fit"):
        predict(model_of(full), np.zeros((4, 1, 4, 4, 4), np.float32), Application(batch=4))
    assert calls[:2] == [4, 4]
    calls.clear()

    def full_once(x):
        calls.append(len(x))
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x

    predict(model_of(full_once), np.zeros((4, 1, 4, 4, 4), np.float32), Application(batch=4))
    assert calls == [4, 4]


@pytest.mark.parametrize("words", ["CUDA error: out of memory", "cuFFT error: CUFFT_ALLOC_FAILED"])
def test_memory_that_is_full_in_the_words_of_cuda_is_not_the_networks_fault(words):
    def full(x):
        raise RuntimeError(words)

    with pytest.raises(BlockMemoryError, match="does not fit the GPU"):
        predict(model_of(full), np.zeros((4, 1, 4, 4, 4), np.float32), Application(batch=4))


def test_memory_of_the_host_that_is_full_is_left_to_the_engine():
    def full(x):
        return torch.empty(2**58)

    with pytest.raises(RuntimeError, match="DefaultCPUAllocator") as caught:
        predict(model_of(full), np.zeros((4, 1, 4, 4, 4), np.float32), Application(batch=4))
    assert is_out_of_memory(caught.value) and not is_out_of_device_memory(caught.value)


@pytest.mark.parametrize("norm", ["group", "instance"])
def test_norms_of_a_patch_are_those_of_double_precision(norm):
    """Few bright voxels on a dark ground, where a mean is large beside what is normalised."""
    model = random_model(widths=(16, 32, 64), norm=norm)
    rng = np.random.default_rng(0)
    noise = rng.random((1, 1, 32, 64, 64))
    patch = (noise + np.where(noise > 0.9999, 20.0, 0.0)).astype(np.float32)
    with torch.inference_mode():
        exact = copy.deepcopy(model.module).double()(torch.from_numpy(patch).double()).numpy()
    assert np.abs(predict(prepared(model), patch, RAW) - exact).max() < 5e-6 * np.ptp(exact)


@pytest.mark.parametrize("widths", [(12, 24), (16, 32), (8, 16, 32)])
def test_single_planes_in_bfloat16_are_near_float32_and_the_same_again(widths):
    model = prepared(random_model(widths=widths, norm="none", pools=((1, 2, 2),)))
    patches = np.random.default_rng(0).random((3, 1, 1, 32, 32), dtype=np.float32)
    exact, quick, again = (predict(model, patches, Application(precision=p)) for p in ("float32", *["bfloat16"] * 2))
    assert np.abs(exact - quick).max() < 0.05
    assert quick.tobytes() == again.tobytes()


def test_bfloat16_is_near_float32_and_is_not_it(patches):
    model = random_model(widths=(8,), norm="none")
    exact, quick = (predict(model, patches, Application(precision=p)) for p in ("float32", "bfloat16"))
    assert 0 < np.abs(exact - quick).max() < 0.05


def test_channels_last_changes_no_more_than_the_last_digits(patches):
    model = random_model(widths=(8, 16), norm="group")
    patches = patches[..., :8, :8, :]
    usual = predict(model, patches, RAW)
    np.testing.assert_allclose(predict(prepared(model), patches, RAW), usual, atol=1e-5)


def test_weights_of_planes_in_a_network_of_volumes_stay_as_they_are(patches):
    class Planes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            return self.inner(x.flatten(1, 2).transpose(0, 1)).transpose(0, 1)[:, None]

    model = Model(Planes().eval().requires_grad_(False), "0" * 64, (1, 1, 1), 1, "cpu")
    np.testing.assert_array_equal(predict(prepared(model), patches[:1], RAW), predict(model, patches[:1], RAW))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.:DeprecationWarning")  # from torch's own compiler
def test_a_compiled_network_gives_nearly_the_same_and_the_same_every_time():
    model = random_model(widths=(8, 16), norm="none")
    patches = np.random.default_rng(6).random((1, 1, 32, 32, 32), dtype=np.float32)
    how = Application(margin=(8, 8, 8))
    compiled = [predict(prepared(model, compiled=True), patches, how) for _ in range(2)]
    np.testing.assert_allclose(compiled[0], predict(prepared(model), patches, how), atol=1e-5)
    assert compiled[0].tobytes() == compiled[1].tobytes()
