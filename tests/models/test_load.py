"""Network files: what was saved is what is loaded, and no file runs code."""

import io
import json
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

from chunkflow.errors import ModelError  # noqa: E402
from chunkflow.models import digest_of, load_model, predict, save_model  # noqa: E402
from chunkflow.models.unet import UNet, UNetConfig  # noqa: E402

CONFIG = UNetConfig(widths=(4, 8), norm="batch", out_channels=2)
MODEL_JSON = "models/model.json"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    module = UNet(CONFIG)
    with torch.no_grad():
        module(torch.rand(2, 1, 8, 8, 8))  # running statistics that are not 0 and 1
    return module.eval()


@pytest.fixture(scope="module")
def program(network, tmp_path_factory):
    """A .pt2 with a free number of patches, so that it holds shape expressions and guards."""
    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    shapes = ({0: torch.export.Dim("patches", min=1, max=64)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, from tracing; loading is under "error"
        exported = torch.export.export(network, (torch.zeros(2, 1, 8, 8, 8),), dynamic_shapes=shapes)
        torch.export.save(exported, path, extra_files={"chunkflow.json": json.dumps({"stride": CONFIG.stride})})
    return path


@pytest.fixture(scope="module")
def patches():
    return np.random.default_rng(0).random((3, 1, 8, 8, 8), dtype=np.float32)


@pytest.fixture(scope="module")
def truth(network, patches):
    with torch.inference_mode():
        return network(torch.from_numpy(patches.copy()))[:, 1].numpy()


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def rewritten(source: Path, target: Path, changes: dict) -> Path:
    """The archive with the named parts replaced (bytes), edited (a function of the parsed JSON), or added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        parts = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
        for name, change in changes.items():
            if callable(change):
                content = json.loads(parts[name])
                change(content)
                parts[name] = json.dumps(content).encode()
            else:
                parts[name] = change
        for name, content in parts.items():
            new.writestr(f"{root}/{name}", content)
    return target


@pytest.mark.parametrize("name", ["folder", "net.safetensors", "net.pt", "folder of .pt"])
def test_a_saved_network_gives_the_same_output_after_loading(network, patches, truth, tmp_path, name):
    path = tmp_path / name
    if name == "net.pt":
        torch.save({"architecture": "unet", "config": CONFIG.to_dict(), "state_dict": network.state_dict()}, path)
    else:
        save_model(network if name == "folder" else network.state_dict(), CONFIG, path)
    if name == "folder of .pt":
        (path / "weights.safetensors").unlink()
        torch.save(network.state_dict(), path / "weights.pt")
    model = load_model(path)
    assert (model.stride, model.out_channels, model.device) == (2, 2, "cpu")
    assert model.digest == digest_of(path)
    np.testing.assert_allclose(predict(model, patches, activation="none", channel=1), truth, atol=1e-6)


def test_half_precision_weights_are_computed_in_float32(network, patches, truth, tmp_path):
    half = {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    save_model(half, CONFIG, tmp_path / "half.safetensors")
    got = predict(load_model(tmp_path / "half.safetensors"), patches, activation="none", channel=1)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, truth, atol=0.02)


def test_an_exported_program_gives_the_same_output_after_loading(program, patches, truth):
    model = load_model(program)
    assert (model.stride, model.out_channels) == (2, 2)
    np.testing.assert_allclose(predict(model, patches, activation="none", channel=1, batch=2), truth, atol=1e-6)


def test_an_exported_program_without_a_stated_stride_has_stride_one(network, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(network, (torch.zeros(1, 1, 8, 8, 8),))
        torch.export.save(exported, tmp_path / "net.pt2")
    assert load_model(tmp_path / "net.pt2").stride == 1


def test_the_digest_depends_on_header_and_weights_and_on_nothing_else(network, tmp_path):
    save_model(network, CONFIG, tmp_path / "net")
    first = digest_of(tmp_path / "net")
    (tmp_path / "net" / "README.md").write_text("notes")
    assert digest_of(tmp_path / "net") == first
    save_model(network, CONFIG, tmp_path / "copy")
    assert digest_of(tmp_path / "copy") == first
    with (tmp_path / "net" / "model.yaml").open("a") as header:
        header.write("\n")
    changed = digest_of(tmp_path / "net")
    assert changed != first
    weights = bytearray((tmp_path / "net" / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "net" / "weights.safetensors").write_bytes(weights)
    assert digest_of(tmp_path / "net") not in (first, changed)


def test_the_digest_needs_no_torch_and_loading_without_it_names_the_extra(network, tmp_path):
    save_model(network, CONFIG, tmp_path / "net")
    code = (
        "import sys; sys.modules['torch'] = None\n"
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


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net/weights.pt"])
def test_a_pickle_with_a_payload_is_refused_and_does_not_run(tmp_path, name):
    mark, path = tmp_path / "mark", tmp_path / name
    path.parent.mkdir(exist_ok=True)
    (path.parent / "model.yaml").write_text("architecture: unet\nconfig: {}\n")
    for content in (Payload(mark), {"config": {}, "state_dict": {"head.weight": Payload(mark)}}):
        for save in (torch.save, lambda what, where: where.write_bytes(pickle.dumps(what))):
            save(content, path)
            with pytest.raises(ModelError, match="would run code"):
                load_model(path if path.parent == tmp_path else path.parent)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()  # the payload does work where it is let


def test_a_whole_pickled_module_is_refused(network, tmp_path):
    torch.save(network, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"would run code.*state_dict"):
        load_model(tmp_path / "net.pt")


def test_a_yaml_header_cannot_name_python_objects(network, tmp_path):
    save_model(network, CONFIG, tmp_path / "net")
    mark = tmp_path / "mark"
    (tmp_path / "net" / "model.yaml").write_text(f"config: !!python/object/apply:os.mkdir [{mark}]\n")
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(tmp_path / "net")
    assert not mark.exists()


def test_pickles_in_an_exported_program_are_refused_or_never_read(program, tmp_path):
    mark, buffer = tmp_path / "mark", io.BytesIO()
    torch.save(Payload(mark), buffer)

    def pickled_weight(config):
        config["config"]["head.bias"] |= {"use_pickle": True}

    def opaque_constant(config):
        config["config"]["c"] = {
            "path_name": "opaque_obj_0",
            "is_param": False,
            "use_pickle": False,
            "tensor_meta": None,
        }

    for changes in (
        {"data/weights/model_weights_config.json": pickled_weight, "data/weights/weight_0": buffer.getvalue()},
        {
            "data/constants/model_constants_config.json": opaque_constant,
            "data/constants/opaque_obj_0": pickle.dumps(Payload(mark)),
        },
    ):
        with pytest.raises(ModelError, match="could run code"):
            load_model(rewritten(program, tmp_path / "evil.pt2", changes))
    changes = {"data/sample_inputs/model.pt": buffer.getvalue(), "data/weights/model.pt": buffer.getvalue()}
    changes |= {"data/constants/model.pt": buffer.getvalue(), "data/aotinductor/net/net.so": b"\x7fELF"}
    load_model(rewritten(program, tmp_path / "evil.pt2", changes))
    assert not mark.exists()


def first_node(program):
    return program["graph_module"]["graph"]["nodes"][0]


@pytest.mark.parametrize(
    "edit",
    [
        lambda p: first_node(p).update(target="torch.os.system"),
        lambda p: first_node(p).update(target="torch.ops.aten.from_file.default"),
        lambda p: first_node(p).update(target="torch.ops.aten.__class__.mro"),
        lambda p: first_node(p).update(target="torch.ops.aten.relu.overloads"),
        lambda p: first_node(p).update(target="torch.ops.higher_order.cond"),
        lambda p: first_node(p).update(target="_operator.methodcaller"),
        lambda p: first_node(p)["inputs"][0].update(arg={"as_operator": "torch.os.system"}),
        lambda p: p["graph_module"]["graph"]["inputs"][-1]["as_tensor"].update(name="x=open('mark','w')"),
        lambda p: p["graph_module"]["graph"]["tensor_values"]["image"]["sizes"].__setitem__(
            0, {"as_expr": {"expr_str": "__import__('os').mkdir('mark')", "hint": None}}
        ),
        lambda p: p["graph_module"]["graph"]["tensor_values"]["image"]["sizes"].__setitem__(
            0, {"as_expr": {"expr_str": "eval('s0')", "hint": None}}
        ),
        lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec='[1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}]'
        ),
        lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec=r'[1, {"type": "builtins.tuple", "context": "{\"\\u005f_enum__\": true}", "children_spec": []}]'
        ),
        lambda p: p["graph_module"]["signature"]["input_specs"][0]["parameter"].update(parameter_name='a"+f()+"'),
    ],
)
def test_a_graph_that_says_more_than_arithmetic_is_refused(program, tmp_path, monkeypatch, edit):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="could run code"):
        load_model(rewritten(program, tmp_path / "evil.pt2", {MODEL_JSON: edit}))
    assert not (tmp_path / "mark").exists()


def test_guards_of_an_exported_program_are_not_compiled(program, tmp_path, monkeypatch, patches):
    monkeypatch.chdir(tmp_path)

    def guard(content):
        content["guards_code"] = ["__import__('os').mkdir('mark') is None"]

    predict(load_model(rewritten(program, tmp_path / "evil.pt2", {MODEL_JSON: guard})), patches)
    assert not (tmp_path / "mark").exists()


def test_an_archive_that_unpacks_to_more_than_its_size_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/models/model.json", bytes(1 << 20))
    with pytest.raises(ModelError, match="unpacks to more"):
        load_model(tmp_path / "bomb.pt2")


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt", "net.pt2"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_refused(network, program, tmp_path, name, keep):
    path = tmp_path / name
    if name == "net.safetensors":
        save_model(network, CONFIG, path)
    elif name == "net.pt":
        torch.save({"config": CONFIG.to_dict(), "state_dict": network.state_dict()}, path)
    else:
        path.write_bytes(program.read_bytes())
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ModelError):
        load_model(path)


def test_what_is_not_a_network_is_named(network, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "image.tif").write_bytes(b"II*\0")
    (tmp_path / "text.pt").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(network.state_dict(), tmp_path / "bare.pt")
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


def test_weights_that_do_not_fit_the_config_are_named_without_building_it(network, tmp_path):
    state = dict(network.state_dict())
    for config in (UNetConfig(widths=(4, 16), norm="batch", out_channels=2), UNetConfig(widths=(1 << 20, 1 << 20))):
        save_model(state, config, tmp_path / "net.safetensors")
        with pytest.raises(ModelError, match=r"weights of .* do not fit its config, first"):
            load_model(tmp_path / "net.safetensors")
    del state["head.bias"]
    save_model(state, CONFIG, tmp_path / "net.safetensors")
    with pytest.raises(ModelError, match=r"1 weights of .* first head.bias: missing"):
        load_model(tmp_path / "net.safetensors")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_network_for_a_gpu_that_is_not_there_is_refused(network, tmp_path):
    save_model(network, CONFIG, tmp_path / "net.safetensors")
    with pytest.raises(ModelError, match="finds no GPU"):
        load_model(tmp_path / "net.safetensors", device="gpu")
