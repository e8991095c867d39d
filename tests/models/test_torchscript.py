"""TorchScript: the same outputs as torch, and what the archive says of itself."""

import json
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

from chunkflow.errors import ModelError  # noqa: E402
from chunkflow.models.load import load_model  # noqa: E402
from chunkflow.models.torchscript import check_source, is_torchscript  # noqa: E402
from chunkflow.models.trace import repeats  # noqa: E402


def saved(module, path, stated=None):
    """The module scripted and written."""
    extra = {} if stated is None else {"chunkflow.json": json.dumps(stated)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path), _extra_files=extra)
    return path


class Doubling(torch.nn.Module):
    """Twice as many voxels in y and x; control flow, containers and names by number, which tracing would lose."""

    def __init__(self, channels: int):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Conv3d(channels, 4, 3, padding=1), torch.nn.ReLU())
        self.last = torch.nn.ModuleList([torch.nn.Conv3d(4, 2, 1)])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found = self.inner(image)
        for layer in self.last:
            found = layer(found)
        if found.shape[0] > 100:
            raise ValueError("too many")
        sides = [image.shape[2], 2 * image.shape[3], 2 * image.shape[4]]
        return torch.nn.functional.interpolate(found, size=sides, mode="trilinear")


class Forgetful(torch.nn.Module):
    """Drops out at random, also in evaluation mode."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(image, 0.5, True)


class Counting(torch.nn.Module):
    """Gives more at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return image + self.calls


@pytest.mark.parametrize(("module", "is_same"), [(Forgetful(), False), (Counting(), False), (Doubling(1), True)])
def test_a_network_that_gives_other_bits_each_time_is_noticed(module, is_same, tmp_path):
    stated = {"upsampling": [1, 2, 2], "in_channels": 1} if is_same else {"in_channels": 1}
    assert repeats(load_model(saved(module, tmp_path / "net.torchscript", stated))) == is_same


@pytest.mark.parametrize("suffix", [".torchscript", ".pt", ".pth"])
def test_a_script_gives_the_same_output_after_loading(script, applied, patches, truth, tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(script.read_bytes())
    assert is_torchscript(path)
    model = load_model(path)
    assert (model.kind, model.stride, model.in_channels, model.out_channels) == ("TorchScript", (2, 2, 2), 1, 2)
    assert (model.architecture, model.usage.activation) == ("UNet", "none")
    np.testing.assert_allclose(applied(model, patches), truth, atol=1e-6)


def test_only_torchscript_is_taken_for_it(script, program, small, tmp_path):
    torch.save(small.module.state_dict(), tmp_path / "net.pt")
    (tmp_path / "text.pt").write_text("hello")
    assert [is_torchscript(path) for path in (script, program, tmp_path / "net.pt", tmp_path / "text.pt")] == [
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_are_found_by_trying_and_upsampling_is_stated(applied, tmp_path, channels):
    torch.manual_seed(0)
    module = Doubling(channels).eval()
    path = saved(module, tmp_path / "net.torchscript", {"upsampling": [1, 2, 2], "stride": [1, 4, 4]})
    model = load_model(path)
    assert (model.in_channels, model.out_channels, model.upsampling) == (channels, 2, (1, 2, 2))
    image = np.random.default_rng(0).random((1, channels, 3, 8, 12), dtype=np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(applied(model, image), module(torch.from_numpy(image)).numpy(), atol=1e-6)


def test_an_output_of_another_size_than_stated_is_refused_with_both(tmp_path):
    path = saved(Doubling(1), tmp_path / "net.torchscript")
    with pytest.raises(ModelError, match=r"gives \(1, 2, 32, 64, 64\) .* not \(1, channels, 32, 32, 32\)"):
        load_model(path)


def test_channels_that_do_not_fit_are_refused_with_the_cause(tmp_path):
    path = saved(Doubling(1), tmp_path / "net.torchscript", {"upsampling": [1, 2, 2], "in_channels": 2})
    with pytest.raises(ModelError, match=r"takes no patch \(1, 2, 32, 32, 32\).*channels"):
        load_model(path)


class Plane(torch.nn.Module):
    """For planes, not for volumes."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Conv2d(1, 1, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.inner(image)


class Pair(torch.nn.Module):
    """Gives two arrays."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return image, image


@pytest.mark.parametrize(("module", "message"), [(Plane, "takes no patch"), (Pair, "gives tuple for a patch")])
def test_what_takes_or_gives_no_volume_is_refused(tmp_path, module, message):
    with pytest.raises(ModelError, match=message):
        load_model(saved(module(), tmp_path / "net.torchscript"))


def test_a_script_in_training_mode_is_applied_as_trained(applied, tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv3d(1, 1, 1), torch.nn.Dropout(0.9)).train()
    model = load_model(saved(module, tmp_path / "net.torchscript"))
    image = np.ones((1, 1, 8, 8, 8), np.float32)
    np.testing.assert_array_equal(applied(model, image), applied(model, image))


def test_ordinary_source_passes_the_check(tmp_path):
    from pathlib import Path

    text = """class M(Module):
  __parameters__ = ["weight", ]
  __annotations__ = []
  __annotations__["0"] = __torch__.torch.nn.modules.conv.Conv3d
  def forward(self: __torch__.M, x: Tensor) -> Tensor:
    _0 = getattr(self.layers, "0")
    y = ops.prim.NumToTensor(torch.size(x, 0))
    z = annotate(List[int], [])
    if torch.gt(int(y), 3):
      ops.prim.RaiseException("too many", "builtins.ValueError")
    return (_0).forward(torch._convolution(x, self.saved, None, [1], CONSTANTS.c0), )
"""
    check_source(text, Path("net.pt"))
