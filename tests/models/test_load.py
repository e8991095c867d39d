"""Network files: what was saved is what is loaded, with what its files say of its use."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

from chunkflow.errors import ModelError  # noqa: E402
from chunkflow.models.load import digest_of, load_model, save_model  # noqa: E402
from chunkflow.models.unet import UNetConfig  # noqa: E402
from chunkflow.models.usage import Normalization, Usage  # noqa: E402

USAGE = Usage(
    normalization=Normalization(kind="percentiles", percentiles=(2.0, 99.0), asinh=3.0),
    activation="softmax",
    outputs=("cell", "border"),
    threshold=0.6,
    voxel_um=(0.2, 0.1, 0.1),
)


@pytest.mark.parametrize("name", ["folder", "net.safetensors", "net.pt", "folder of .pt"])
def test_a_saved_network_gives_the_same_output_after_loading(small, applied, patches, truth, tmp_path, name):
    path = tmp_path / name
    config, state = small.config, small.module.state_dict()
    if name == "net.pt":
        header = {"architecture": "unet", "config": config.to_dict(), "usage": USAGE.to_dict()}
        torch.save({**header, "state_dict": state}, path)
    else:
        save_model(small.module if name == "folder" else state, config, path, usage=USAGE)
    if name == "folder of .pt":
        (path / "weights.safetensors").unlink()
        torch.save(state, path / "weights.pt")
    model = load_model(path)
    assert (model.stride, model.in_channels, model.out_channels, model.device) == ((2, 2, 2), 1, 2, "cpu")
    assert model.digest == digest_of(path)
    assert model.usage == USAGE
    np.testing.assert_allclose(applied(model, patches), truth, atol=1e-6)


def test_a_file_that_says_nothing_of_its_use_has_the_usual_one(small, tmp_path):
    save_model(small.module, small.config, tmp_path / "net.safetensors")
    assert load_model(tmp_path / "net.safetensors").usage == Usage()


def test_half_precision_weights_are_computed_in_float32(small, applied, patches, truth, tmp_path):
    state = small.module.state_dict()
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    save_model(half, small.config, tmp_path / "half.safetensors")
    got = applied(load_model(tmp_path / "half.safetensors"), patches)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, truth, atol=0.02)


def test_an_exported_program_gives_the_same_output_after_loading(program, applied, patches, truth):
    model = load_model(program)
    assert (model.stride, model.in_channels, model.out_channels) == ((2, 2, 2), 1, 2)
    assert (model.patch, model.usage.activation) == ((8, 8, 8), "softmax")
    np.testing.assert_allclose(applied(model, patches), truth, atol=1e-6)


def test_an_exported_program_for_a_batch_of_two_takes_batches_of_any_size(small, applied, patches, truth, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(small.module, (torch.zeros(2, 1, 8, 8, 8),))
        torch.export.save(exported, tmp_path / "net.pt2")
    model = load_model(tmp_path / "net.pt2")
    assert model.stride == (1, 1, 1)  # nobody stated one
    for count in (1, 2, 3):
        np.testing.assert_allclose(applied(model, patches[:count]), truth[:count], atol=1e-6)


def test_a_header_beside_a_program_says_what_no_operator_tells(program, tmp_path):
    (tmp_path / "weights.pt2").write_bytes(program.read_bytes())
    (tmp_path / "model.yaml").write_text("stride: [1, 2, 4]\nusage: {activation: none, threshold: 0.25}\n")
    model = load_model(tmp_path)
    assert (model.stride, model.usage) == ((1, 2, 4), Usage(activation="none", threshold=0.25))
    assert model.digest == digest_of(tmp_path) != digest_of(program)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ("stride: 0", "stride of the network is 0"),
        ("stride: [2, 2]", "stride"),
        ("stride: true", "stride"),
        ("upsampling: 1.5", "upsampling"),
        ("in_channels: none", "in_channels"),
        ("strides: 2", "Did you mean 'stride'"),
        ("usage: sigmoid", "usage is 'sigmoid'"),
        ("usage: {activation: relu}", "relu"),
        ("usage: {voxel_um: 3}", "usage"),
        ("usage: {deconvolved: 3}", "neither true nor false"),
        ("usage: {normalization: {kind: percentiles, percentiles: 3}}", "percentiles"),
        ("- 3", "no description of a network"),
    ],
)
def test_a_statement_that_cannot_be_is_refused(program, tmp_path, stated, message):
    (tmp_path / "weights.pt2").write_bytes(program.read_bytes())
    (tmp_path / "model.yaml").write_text(stated)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)


def test_the_digest_depends_on_header_and_weights_and_on_nothing_else(small, tmp_path):
    save_model(small.module, small.config, tmp_path / "net")
    first = digest_of(tmp_path / "net")
    (tmp_path / "net" / "README.md").write_text("notes")
    assert digest_of(tmp_path / "net") == first
    save_model(small.module, small.config, tmp_path / "copy")
    assert digest_of(tmp_path / "copy") == first
    with (tmp_path / "net" / "model.yaml").open("a") as header:
        header.write("\n")
    changed = digest_of(tmp_path / "net")
    assert changed != first
    weights = bytearray((tmp_path / "net" / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "net" / "weights.safetensors").write_bytes(weights)
    assert digest_of(tmp_path / "net") not in (first, changed)


def test_the_digest_needs_no_torch_and_loading_without_it_names_the_extra(small, tmp_path):
    save_model(small.module, small.config, tmp_path / "net")
    code = (
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'torch': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "from chunkflow.errors import ModelError\n"
        "from chunkflow.models import digest_of, load_model\n"
        "print(digest_of(sys.argv[1]))\n"
        "try: load_model(sys.argv[1])\n"
        "except ModelError as error: print(error)\n"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "net")]
    digest, message = subprocess.run(run, check=True, capture_output=True, text=True).stdout.splitlines()
    assert digest == digest_of(tmp_path / "net")
    assert "pip install 'chunkflow-engine[models]'" in message


def test_what_is_not_a_network_is_named(small, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "image.tif").write_bytes(b"II*\0")
    (tmp_path / "text.pt").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(small.module.state_dict(), tmp_path / "bare.pt")
    torch.save({"config": {}, "state_dict": [1]}, tmp_path / "odd.pt")
    torch.save({"config": {}, "architecture": "resnet", "state_dict": {}}, tmp_path / "other.pt")
    for name, message in {
        "nothing": "no network at",
        "empty": "does not hold model.yaml",
        "image.tif": "not a network file",
        "text.pt": "damaged, or more than weights|cannot be read",
        "list.pt": "does not say what its weights belong to",
        "bare.pt": "does not say what its weights belong to",
        "odd.pt": "are a list, not a state dict",
        "other.pt": "architecture 'resnet'",
    }.items():
        with pytest.raises(ModelError, match=message):
            load_model(tmp_path / name)


def test_weights_that_do_not_fit_the_config_are_named_without_building_it(small, tmp_path):
    state = dict(small.module.state_dict())
    for config in (UNetConfig(widths=(4, 16), norm="batch", out_channels=2), UNetConfig(widths=(1 << 20, 1 << 20))):
        save_model(state, config, tmp_path / "net.safetensors")
        with pytest.raises(ModelError, match=r"weights of .* do not fit its config, first"):
            load_model(tmp_path / "net.safetensors")
    del state["head.bias"]
    save_model(state, small.config, tmp_path / "net.safetensors")
    with pytest.raises(ModelError, match=r"1 weights of .* first head.bias: missing"):
        load_model(tmp_path / "net.safetensors")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_network_for_a_gpu_that_is_not_there_is_refused(small, tmp_path):
    save_model(small.module, small.config, tmp_path / "net.safetensors")
    with pytest.raises(ModelError, match="finds no GPU"):
        load_model(tmp_path / "net.safetensors", device="gpu")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda header, state: header["usage"].update(outputs=["a", "b", "c", "d"]), "names outputs"),
        (lambda header, state: state.update({"head.weight": state["head.weight"].to(torch.int8)}), "floating point"),
        (lambda header, state: header["config"].update(widths=[10**9]), "widths"),
    ],
)
def test_weights_that_cannot_be_are_refused_as_they_are_read(tmp_path, small, change, words):
    header = {"architecture": "unet", "config": small.config.to_dict(), "usage": Usage().to_dict()}
    state = dict(small.module.state_dict())
    change(header, state)
    torch.save({**header, "state_dict": state}, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=words):
        load_model(tmp_path / "net.pt")
