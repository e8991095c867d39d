"""ONNX: the same outputs as torch, sizes and channels from the file, and no file outside its folder."""

import json
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")
onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx onnxscript")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'chunkflow-engine[models]'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from chunkflow.errors import ModelError  # noqa: E402
from chunkflow.models.load import digest_of, load_model  # noqa: E402
from chunkflow.models.onnx_files import external_files, names_in  # noqa: E402


@pytest.fixture(scope="module")
def exported(small, tmp_path_factory):
    """The small network as ONNX with free sizes of the batch and along z."""
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        program = torch.onnx.export(
            small.module,
            (torch.zeros(2, 1, 8, 8, 8),),
            dynamic_shapes=({0: torch.export.Dim("n", max=64), 2: torch.export.Dim("z", max=64) * 2},),
            dynamo=True,
            verbose=False,
        )
    program.save(str(path), external_data=False)
    return path


def convolution(channels=(1, 3), shape=("n", 1, "z", "y", "x"), seed=0):
    """A model of one 3x3x3 convolution (or 3x3, for planes), and its weights."""
    taken, given = channels
    ndim = len(shape) - 2
    rng = np.random.default_rng(seed)
    weights = numpy_helper.from_array(rng.normal(size=(given, taken, *[3] * ndim)).astype(np.float32), "w")
    node = helper.make_node("Conv", ["image", "w"], ["out"], kernel_shape=[3] * ndim, pads=[1] * 2 * ndim)
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [shape[0], given, *shape[2:]])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model, numpy_helper.to_array(weights)


def convolved(image, weights):
    function = torch.nn.functional.conv3d if weights.ndim == 5 else torch.nn.functional.conv2d
    return function(torch.from_numpy(image), torch.from_numpy(weights.copy()), padding=1).numpy()


def test_an_exported_network_gives_the_outputs_of_torch(exported, applied, patches, truth):
    model = load_model(exported)
    assert (model.kind, model.in_channels, model.out_channels, model.patch) == ("ONNX", 1, 2, (None, 8, 8))
    np.testing.assert_allclose(applied(model, patches), truth, atol=1e-5)


def test_outputs_do_not_depend_on_what_ran_before(exported, applied, patches):
    model = load_model(exported)
    first = applied(model, patches[:1])
    applied(model, np.concatenate([patches, patches]))
    assert np.array_equal(applied(model, patches[:1]), first)
    assert np.array_equal(applied(load_model(exported), patches[:1]), first)


def test_the_metadata_states_stride_upsampling_and_usage(applied, patches, tmp_path):
    model, weights = convolution()
    stated = {"stride": [1, 2, 2], "usage": {"activation": "none", "outputs": ["a", "b", "c"]}}
    helper.set_model_props(model, {"chunkflow.json": json.dumps(stated)})
    onnx.save(model, tmp_path / "net.onnx")
    loaded = load_model(tmp_path / "net.onnx")
    assert loaded.stride == (1, 2, 2) and loaded.usage.outputs == ("a", "b", "c")
    np.testing.assert_allclose(applied(loaded, patches), convolved(patches, weights), atol=1e-5)


def test_a_network_of_planes_is_applied_to_every_plane(applied, tmp_path):
    model, weights = convolution(channels=(2, 3), shape=("n", 2, "y", "x"))
    onnx.save(model, tmp_path / "net.onnx")
    image = np.random.default_rng(1).random((2, 2, 5, 6, 7), dtype=np.float32)
    loaded = load_model(tmp_path / "net.onnx")
    assert (loaded.in_channels, loaded.out_channels, loaded.patch) == (2, 3, (None, None, None))
    got = applied(loaded, image)
    assert got.shape == (2, 3, 5, 6, 7)
    for z in range(5):
        np.testing.assert_allclose(got[:, :, z], convolved(image[:, :, z].copy(), weights), atol=1e-5)


def test_a_network_that_insists_on_a_shape_says_so_and_takes_any_batch(applied, patches, tmp_path):
    model, weights = convolution(shape=(1, 1, 8, 8, 8))
    onnx.save(model, tmp_path / "net.onnx")
    loaded = load_model(tmp_path / "net.onnx")
    assert loaded.patch == (8, 8, 8)
    np.testing.assert_allclose(applied(loaded, patches), convolved(patches, weights), atol=1e-5)


def test_channels_that_the_file_leaves_open_are_found_by_trying(tmp_path):
    model, _ = convolution(channels=(3, 2), shape=("n", "c", "z", "y", "x"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "k"
    onnx.save(model, tmp_path / "net.onnx")
    loaded = load_model(tmp_path / "net.onnx")
    assert (loaded.in_channels, loaded.out_channels) == (3, 2)


def with_external(folder, location, *, at="net.onnx"):
    """A network whose weights lie in another file, which is written where `location` is inside the folder."""
    model, weights = convolution()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(weights.nbytes)}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    folder.mkdir(exist_ok=True)
    (folder / at).write_bytes(model.SerializeToString())
    return weights


def test_weights_beside_the_file_are_read_and_are_part_of_its_digest(applied, patches, tmp_path):
    weights = with_external(tmp_path, "net.data")
    (tmp_path / "net.data").write_bytes(weights.tobytes())
    first = digest_of(tmp_path / "net.onnx")
    np.testing.assert_allclose(
        applied(load_model(tmp_path / "net.onnx"), patches), convolved(patches, weights), atol=1e-5
    )
    (tmp_path / "net.data").write_bytes((2 * weights).tobytes())
    assert digest_of(tmp_path / "net.onnx") != first
    doubled = applied(load_model(tmp_path / "net.onnx"), patches)
    np.testing.assert_allclose(doubled, 2 * convolved(patches, weights), atol=1e-4)


@pytest.mark.parametrize("location", ["../secret.data", "/etc/hostname", "inside/../../secret.data", "link.data"])
def test_weights_outside_the_folder_are_never_read(tmp_path, location):
    folder = tmp_path / "net"
    weights = with_external(folder, location)
    (tmp_path / "secret.data").write_bytes(weights.tobytes())
    (folder / "inside").mkdir()
    (folder / "link.data").symlink_to(tmp_path / "secret.data")
    for call in (digest_of, load_model):
        with pytest.raises(ModelError, match="outside its folder"):
            call(folder / "net.onnx")


def test_weights_that_are_not_there_or_cut_short_are_named(tmp_path):
    weights = with_external(tmp_path, "net.data")
    with pytest.raises(ModelError, match=r"'net.data', which are not there"):
        load_model(tmp_path / "net.onnx")
    (tmp_path / "net.data").write_bytes(weights.tobytes()[:-4])
    with pytest.raises(ModelError, match="cannot be read as ONNX"):
        load_model(tmp_path / "net.onnx")


def test_names_of_files_are_found_wherever_the_format_can_hide_an_array():
    def tensor(name):
        found = TensorProto(name=name, data_location=TensorProto.EXTERNAL, dims=[1], data_type=TensorProto.FLOAT)
        entry = found.external_data.add()
        entry.key, entry.value = "location", name
        return found

    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor("in_branch"))], "inner", [], [])
    inner.sparse_initializer.add().values.CopyFrom(tensor("sparse"))
    nodes = [
        helper.make_node("If", ["b"], ["o"], then_branch=inner, else_branch=inner),
        helper.make_node("X", [], ["t"], many=[tensor("one of many")]),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [tensor("initializer")])
    model = helper.make_model(graph)
    function = helper.make_function(
        "d", "F", [], ["c"], [helper.make_node("Constant", [], ["c"], value=tensor("in_function"))], []
    )
    model.functions.append(function)
    model.training_info.add().initialization.CopyFrom(helper.make_graph([], "t", [], [], [tensor("training")]))
    expected = ["in_branch", "in_function", "initializer", "one of many", "sparse", "training"]
    assert names_in(model.SerializeToString()) == expected


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.graph.node[0].__setattr__("op_type", "NoSuchOperator"), "cannot be read as ONNX"),
        (lambda m: m.graph.node[0].__setattr__("domain", "my.library"), "cannot be read as ONNX"),
        (lambda m: m.opset_import[0].__setattr__("version", 999), "cannot be read as ONNX"),
        (lambda m: m.graph.input.append(m.graph.input[0].__class__()), "ONNX|takes 2"),
        (
            lambda m: m.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, None)),
            "gives 2, not one each",
        ),
    ],
)
def test_what_the_runtime_cannot_run_is_one_error(tmp_path, edit, message):
    model, _ = convolution()
    edit(model)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / "net.onnx")


@pytest.mark.parametrize("shape", [("n", 1, "x"), ("n", 1, "t", "z", "y", "x")])
def test_other_than_volumes_and_planes_are_refused(tmp_path, shape):
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "out")]
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["out"])], "net", info[:1], info[1:])
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "a.onnx")
    with pytest.raises(ModelError, match="not float32 volumes"):
        load_model(tmp_path / "a.onnx")


@pytest.mark.parametrize("keep", [0, 1, 10, 0.5, 0.99])
def test_a_truncated_file_is_refused(exported, tmp_path, keep):
    content = exported.read_bytes()
    (tmp_path / "net.onnx").write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ModelError):
        load_model(tmp_path / "net.onnx")


def test_bytes_that_are_no_network_are_one_error_and_end(tmp_path):
    rng = np.random.default_rng(0)
    valid = convolution()[0].SerializeToString()
    for _ in range(300):
        content = bytearray(valid)
        for at in rng.integers(0, len(content), 3):
            content[at] = rng.integers(0, 256)
        (tmp_path / "net.onnx").write_bytes(bytes(content))
        try:
            external_files(tmp_path / "net.onnx")
        except ModelError:
            continue


def test_a_field_whose_number_other_readers_would_cut_is_refused():
    """A key of 33 bits: read as 32 it leads to a file that was never checked."""
    key = bytes([0xBA, 0x80, 0x80, 0x80, 0x10])  # 7, a graph, and bit 32
    assert names_in(bytes([0x3A, 0]) + bytes([0x3A, 0])) == []
    with pytest.raises(ValueError, match="number"):
        names_in(bytes([0x3A, 0]) + key + bytes([0]))
