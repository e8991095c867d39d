"""Files that are damaged, lie or want to run code: each is one clear error, and none runs anything."""

import io
import json
import pickle
import warnings
import zipfile

import psutil
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

from chunkflow.errors import ModelError  # noqa: E402
from chunkflow.models.files import MOST_NODES  # noqa: E402
from chunkflow.models.load import digest_of, load_model, save_model  # noqa: E402

MODEL_JSON = "models/model.json"


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net/weights.pt"])
def test_a_pickle_with_a_payload_is_refused_and_does_not_run(payload, tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    (path.parent / "model.yaml").write_text("architecture: unet\nconfig: {}\n")
    for content in (payload.value, {"config": {}, "state_dict": {"head.weight": payload.value}}):
        for save in (torch.save, lambda what, where: where.write_bytes(pickle.dumps(what))):
            save(content, path)
            with pytest.raises(ModelError, match="would run code"):
                load_model(path if path.parent == tmp_path else path.parent)
    assert not payload.mark.exists()
    pickle.loads(payload.content)
    assert payload.mark.exists()  # the payload does work where it is let


def test_a_whole_pickled_module_is_refused_with_the_digest_that_would_let_it(tmp_path):
    torch.save(torch.nn.Conv3d(1, 3, 1), tmp_path / "net.pt")
    with pytest.raises(ModelError, match=rf"would run code.*state_dict.*trust: {digest_of(tmp_path / 'net.pt')}"):
        load_model(tmp_path / "net.pt")


def test_a_pickled_module_is_loaded_where_exactly_its_digest_is_named(tmp_path):
    module = torch.nn.Conv3d(1, 3, 1)
    torch.save(module, tmp_path / "net.pt")
    model = load_model(tmp_path / "net.pt", trust=digest_of(tmp_path / "net.pt"))
    assert (model.in_channels, model.out_channels) == (1, 3)
    image = torch.rand(1, 1, 4, 4, 4)
    assert torch.equal(model.module(image), module(image))


@pytest.mark.parametrize("trusted", ["0" * 64, "", "yes"])
def test_a_pickle_of_another_digest_than_the_trusted_one_does_not_run(payload, tmp_path, trusted):
    torch.save(payload.value, tmp_path / "net.pt")
    with pytest.raises(ModelError, match="that is trusted"):
        load_model(tmp_path / "net.pt", trust=trusted)
    assert not payload.mark.exists()


def test_trust_covers_the_file_that_is_named_and_no_other_way_of_loading(payload, tmp_path):
    """A trusted pickle that is no module: it has run, which is what trust means, and is still refused."""
    torch.save([1, payload.value], tmp_path / "net.pt")
    with pytest.raises(ModelError, match="not a module"):
        load_model(tmp_path / "net.pt", trust=digest_of(tmp_path / "net.pt"))
    assert payload.mark.exists()


def test_a_yaml_header_cannot_name_python_objects(small, payload, tmp_path):
    save_model(small.module, small.config, tmp_path / "net")
    header = f"config: !!python/object/apply:os.mkdir [{payload.mark}]\n"
    (tmp_path / "net" / "model.yaml").write_text(header)
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(tmp_path / "net")
    assert not payload.mark.exists()


def test_a_yaml_header_that_grows_when_it_is_read_is_refused(small, tmp_path):
    save_model(small.module, small.config, tmp_path / "net")
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    assert MOST_NODES < 9**8
    (tmp_path / "net" / "model.yaml").write_text("\n".join(lines))
    with pytest.raises(ModelError, match="no description of a network"):
        load_model(tmp_path / "net")


def test_pickles_in_an_exported_program_are_refused_or_never_read(program, payload, rewritten, edited, tmp_path):
    buffer = io.BytesIO()
    torch.save(payload.value, buffer)

    def pickled_weight(config):
        config["config"]["head.bias"] |= {"use_pickle": True}

    def opaque_constant(config):
        entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False, "tensor_meta": None}
        config["config"]["c"] = entry

    weights, constants = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
    for changes in (
        {weights: edited(pickled_weight), "data/weights/weight_0": buffer.getvalue()},
        {constants: edited(opaque_constant), "data/constants/opaque_obj_0": payload.content},
    ):
        with pytest.raises(ModelError, match="could run code"):
            load_model(rewritten(program, tmp_path / "evil.pt2", changes))
    changes = {"data/sample_inputs/model.pt": buffer.getvalue(), "data/weights/model.pt": buffer.getvalue()}
    changes |= {"data/constants/model.pt": buffer.getvalue(), "data/aotinductor/net/net.so": b"\x7fELF"}
    load_model(rewritten(program, tmp_path / "evil.pt2", changes))
    assert not payload.mark.exists()


def first_node(program):
    return program["graph_module"]["graph"]["nodes"][0]


def batch_size(program):
    return program["graph_module"]["graph"]["tensor_values"]["image"]["sizes"]


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
        lambda p: batch_size(p).__setitem__(
            0, {"as_expr": {"expr_str": "__import__('os').mkdir('mark')", "hint": None}}
        ),
        lambda p: batch_size(p).__setitem__(0, {"as_expr": {"expr_str": "eval('s0')", "hint": None}}),
        lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec='[1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}]'
        ),
        lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec=r'[1, {"type": "builtins.tuple", "context": "{\"\\u005f_enum__\": true}", "children_spec": []}]'
        ),
        lambda p: p["graph_module"]["signature"]["input_specs"][0]["parameter"].update(parameter_name='a"+f()+"'),
    ],
)
def test_a_graph_that_says_more_than_arithmetic_is_refused(program, rewritten, edited, tmp_path, monkeypatch, edit):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="could run code"):
        load_model(rewritten(program, tmp_path / "evil.pt2", {MODEL_JSON: edited(edit)}))
    assert not (tmp_path / "mark").exists()


def test_guards_of_an_exported_program_are_not_compiled(
    program, rewritten, edited, applied, patches, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)

    def guard(content):
        content["guards_code"] = ["__import__('os').mkdir('mark') is None"]

    applied(load_model(rewritten(program, tmp_path / "evil.pt2", {MODEL_JSON: edited(guard)})), patches)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["net.pt2", "net.pt", "net.torchscript"])
def test_an_archive_that_unpacks_to_more_than_its_size_is_refused(small, script, tmp_path, name):
    with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/models/model.json", bytes(1 << 25))
    with pytest.raises(ModelError, match="unpacks to more"):
        load_model(tmp_path / name)


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt", "net.pt2", "net.torchscript"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_refused(small, program, script, tmp_path, name, keep):
    path = tmp_path / name
    if name == "net.safetensors":
        save_model(small.module, small.config, path)
    elif name == "net.pt":
        torch.save({"config": small.config.to_dict(), "state_dict": small.module.state_dict()}, path)
    else:
        path.write_bytes((program if name == "net.pt2" else script).read_bytes())
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ModelError):
        load_model(path)


def test_a_network_larger_than_the_memory_that_is_free_is_refused_unread(small, tmp_path):
    save_model(small.module, small.config, tmp_path / "net.safetensors")
    with (tmp_path / "net.safetensors").open("r+b") as file:
        file.truncate(10 * psutil.virtual_memory().total)  # sparse: nothing is on the disk
    total = 10 * psutil.virtual_memory().total / 2**30
    with pytest.raises(ModelError, match=rf"holds {total:.3g} GiB, of which memory has .* GiB free"):
        load_model(tmp_path / "net.safetensors")


@pytest.mark.parametrize("suffix", [".pt", ".torchscript"])
def test_pickles_in_torchscript_are_not_run(script, payload, rewritten, tmp_path, suffix):
    for part in ("constants.pkl", "data.pkl"):
        with pytest.raises(ModelError, match="cannot be read as TorchScript"):
            load_model(rewritten(script, tmp_path / f"evil{suffix}", {part: payload.content}))
    changes = {"code/evil.debug_pkl": payload.content, "attributes.pkl": payload.content, "model.json": b"{}"}
    load_model(rewritten(script, tmp_path / f"evil{suffix}", changes))
    assert not payload.mark.exists()


class Writes(torch.nn.Module):
    """Writes a file when it is applied."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        torch.save(image, "mark")
        return image


class WritesWhenLoaded(torch.nn.Module):
    """Writes a file when it is loaded."""

    def __init__(self):
        super().__init__()
        self.training = True

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return 0, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]):
        self.training = state[1]
        torch.save(torch.zeros(1), "mark")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image


class Maps(torch.nn.Module):
    """Looks into a file that is not its own."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image + torch.from_file("secret", False, 1).sum()


@pytest.mark.parametrize("module", [Writes, WritesWhenLoaded, Maps])
def test_torchscript_that_touches_files_is_refused(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(module())
        scripted.save("evil.torchscript")
        if module is WritesWhenLoaded:
            torch.jit.load("evil.torchscript")
            (tmp_path / "mark").unlink()  # torch alone does run it
    with pytest.raises(ModelError, match="does more than compute"):
        load_model("evil.torchscript")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "line",
    [
        "torch.save(x, 'a')",
        "getattr(torch, 'sa\\x76e')(x, 'a')",
        "ops.aten.save(x, 'a')",
        "ops.c10d.send([x], 'a')",
        "ops.inductor._alloc_from_pool(x)",
        "__torch__.torch.classes.evil.Thing(x)",
        "torch.from_file('a')",
        "ops; z = y.c10d.send([x], 'a')",
        "getattr(ops, 'c10d').send([x], 'a')",
        "__torch__.torch; z = y.classes.evil.Thing(x)",
        "((",
    ],
)
def test_a_line_that_reaches_beyond_arrays_is_refused_however_it_is_written(line):
    from pathlib import Path

    from chunkflow.models.torchscript import check_source

    with pytest.raises(ModelError):
        check_source(f"def forward(self, x: Tensor) -> Tensor:\n  y = {line}\n  return y\n", Path("net.pt"))


def test_json_beside_a_program_that_is_none_is_refused(script, program, rewritten, tmp_path):
    for source, suffix in ((script, ".torchscript"), (program, ".pt2")):
        for content in (b"{", b"[]", b'{"stride": "8"}', json.dumps({"usage": {"activation": "x"}}).encode()):
            with pytest.raises(ModelError):
                load_model(rewritten(source, tmp_path / f"net{suffix}", {"extra/chunkflow.json": content}))
