"""Packages of the BioImage Model Zoo: what is written others accept, what others wrote is applied as they say."""

import io
import shutil
import socket
import warnings
import zipfile

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")
pytest.importorskip(
    "bioimageio.spec", reason="bioimageio.spec is not installed: pip install 'chunkflow-engine[models]'"
)

import bioimageio.spec  # noqa: E402
from bioimageio.spec.model import v0_5  # noqa: E402
from scipy.special import expit, softmax  # noqa: E402

from chunkflow.errors import ModelError  # noqa: E402
from chunkflow.models.load import digest_of, load_model  # noqa: E402
from chunkflow.models.unet import UNet, UNetConfig  # noqa: E402
from chunkflow.models.usage import Normalization, Usage  # noqa: E402
from chunkflow.models.zoo import Package, described, write_package  # noqa: E402
from chunkflow.models.zoo_check import Tolerance, compare, run_test  # noqa: E402
from chunkflow.models.zoo_normalize import activated, normalized  # noqa: E402
from chunkflow.models.zoo_processing import after, before  # noqa: E402

USAGE = Usage(
    normalization=Normalization(kind="percentiles", percentiles=(2.0, 99.0), asinh=3.0),
    activation="softmax",
    outputs=("cell", "border"),
    threshold=0.6,
    voxel_um=(0.3, 0.1083, 0.1083),
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing here asks the network for anything."""

    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def written(small, tmp_path_factory):
    """The folder of a package of the small network."""
    folder = tmp_path_factory.mktemp("zoo") / "package"
    image = np.random.default_rng(0).gamma(2.0, 300.0, (17, 21, 26))
    write_package(
        folder,
        model=small.module,
        config=small.config,
        usage=USAGE,
        sample_input=image,
        name="Tubes",
        description="Finds tubes and their borders.",
        authors=[{"name": "Ada Lovelace"}],
    )
    return folder


def copied(folder, target, **changes):
    """A copy of a package whose rdf.yaml has other values."""
    shutil.copytree(folder, target)
    rdf = yaml.safe_load((folder / "rdf.yaml").read_text()) | changes
    (target / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    return target


def zipped(folder, target, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(target, "w", method) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return target


leaves_files_open = pytest.mark.filterwarnings(  # bioimageio.spec does, where it looks into them
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@leaves_files_open
def test_a_written_package_is_valid_by_the_specification(written):
    description = bioimageio.spec.load_description(written / "rdf.yaml")
    assert description.validation_summary.status == "valid-format"
    assert isinstance(description, v0_5.ModelDescr)
    assert description.outputs[0].axes[1].channel_names == ["cell", "border"]


def test_a_written_package_gives_the_network_and_its_usage_back(written, small, applied, patches, truth):
    model = load_model(written)
    assert (model.usage, model.stride, model.in_channels, model.out_channels) == (USAGE, (2, 2, 2), 1, 2)
    assert model.digest == digest_of(written)
    np.testing.assert_allclose(applied(model, patches), truth, atol=1e-6)


def test_the_test_output_of_a_written_package_is_what_its_usage_says_of_the_test_input(written, small, applied):
    image, expected = (np.load(written / name) for name in ("test_input.npy", "test_output.npy"))
    low, high = np.percentile(image, (2, 99))
    scaled = np.arcsinh(3 * (image - low) / (high - low)) / np.arcsinh(3)
    got = softmax(applied(small, scaled.astype(np.float32)), axis=1)
    np.testing.assert_allclose(expected, got, atol=1e-5)
    assert run_test(written, load_model(written)).largest < 1e-5


def test_the_torchscript_of_a_written_package_compresses_its_input_itself(written, small, applied, patches):
    model = load_model(written / "weights.torchscript")
    expected = applied(small, np.arcsinh(3 * patches) / np.float32(np.arcsinh(3)))
    np.testing.assert_allclose(applied(model, patches), expected, atol=1e-5)
    larger = np.random.default_rng(1).random((2, 1, 12, 10, 14), dtype=np.float32)  # not the size it was traced with
    expected = applied(small, np.arcsinh(3 * larger) / np.float32(np.arcsinh(3)))
    np.testing.assert_allclose(applied(model, larger), expected, atol=1e-5)


@leaves_files_open
@pytest.mark.parametrize("upsampling", [(1, 2, 2), (3, 1, 1)])
def test_a_network_that_refines_says_so_in_its_package(tmp_path, upsampling):
    torch.manual_seed(1)
    config = UNetConfig(widths=(4, 8), norm="none", stem=(1, 2, 2), upsampling=upsampling, in_channels=2)
    usage = Usage(activation="none", normalization=Normalization(kind="linear", offset=100.0, scale=50.0))
    image = np.random.default_rng(0).normal(200, 30, (2, 16, 17, 19))
    arguments = {"name": "Finer", "description": "Refines.", "authors": [{"name": "Ada"}]}
    for voxel_um in (None, (0.3, 0.1, 0.1), (0.25, 0.1083, 0.0777)):
        folder = tmp_path / str(voxel_um)
        used = Usage(activation="none", normalization=usage.normalization, voxel_um=voxel_um)
        write_package(folder, model=UNet(config).eval(), config=config, usage=used, sample_input=image, **arguments)
        assert bioimageio.spec.load_description(folder / "rdf.yaml").validation_summary.status == "valid-format"
        model = load_model(folder)
        assert (model.upsampling, model.in_channels, model.usage) == (upsampling, 2, used)
        assert run_test(folder, model).is_good


def test_a_zip_is_read_as_the_folder_in_it(written, applied, patches, truth, tmp_path):
    path = zipped(written, tmp_path / "package.zip")
    model = load_model(path)
    assert model.usage == USAGE
    np.testing.assert_allclose(applied(model, patches), truth, atol=1e-6)
    assert run_test(path, model).largest < 1e-5
    assert sorted(file.name for file in tmp_path.iterdir()) == ["package.zip"]  # nothing was unpacked


def test_the_digest_of_a_package_covers_description_and_weights_alone(written, tmp_path):
    first = digest_of(written)
    copy = tmp_path / "copy"
    shutil.copytree(written, copy)
    (copy / "README.md").write_text("other")
    assert digest_of(copy) == first
    for name in ("weights.pt", "weights.torchscript", "rdf.yaml"):
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(before + b"\n")
        assert digest_of(copy) != first
        (copy / name).write_bytes(before)


# Packages of others.


def axis(name, **more):
    kinds = {"batch": "batch", "channel": "channel"}
    return {"type": kinds.get(name, "space"), **({"id": name} if name in "zyx" else {}), **more}


class Convolution(torch.nn.Module):
    """One convolution; for planes of 3x3."""

    def __init__(self, channels, ndim):
        super().__init__()
        kind = torch.nn.Conv3d if ndim == 3 else torch.nn.Conv2d
        self.inner = kind(*channels, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.inner(image)


def foreign(folder, *, space="zyx", channels=(1, 2), pre=(), post=(), expected=None, sizes=None, bright=1, **changes):
    """A package with a convolution as TorchScript; `expected` (image, logits of torch) -> its test output.

    bright : how many times brighter each channel of the test image is than the one before
    """
    folder.mkdir()
    torch.manual_seed(0)
    module = Convolution(channels, len(space)).eval()
    image = np.random.default_rng(0).gamma(2, 100, (1, channels[0], *(8, 10, 12)[-len(space) :])).astype(np.float32)
    image *= np.float32(bright) ** np.arange(channels[0]).reshape(1, -1, *(1 for _ in space))
    image = image.astype(np.float32)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(folder / "weights.torchscript"))
    np.save(folder / "in.npy", image)
    expected = expected or (lambda image, network: network(image))

    def network(array):
        with torch.no_grad():
            return module(torch.from_numpy(np.asarray(array, np.float32))).numpy()

    np.save(folder / "out.npy", expected(image, network))
    sizes = sizes or {name: {"min": 4, "step": 2} for name in space}
    taken = [axis(name, size=sizes[name]) for name in space]
    given = [axis(name, size={"tensor_id": "a", "axis_id": name}) for name in space]
    for one, name in zip(given, space, strict=True):
        if isinstance(sizes[name], dict) and "axis_id" in sizes[name]:
            one["size"] = sizes[name]
    rdf = {
        "type": "model",
        "format_version": "0.5.3",
        "name": "Foreign",
        "description": "From elsewhere.",
        "authors": [{"name": "Ada"}],
        "license": "MIT",
        "cite": [{"text": "x", "url": "https://example.org"}],
        "inputs": [
            {
                "id": "a",
                "axes": [axis("batch"), axis("channel", channel_names=[f"i{n}" for n in range(channels[0])]), *taken],
                "test_tensor": {"source": "in.npy"},
                "preprocessing": list(pre),
            }
        ],
        "outputs": [
            {
                "id": "b",
                "axes": [axis("batch"), axis("channel", channel_names=[f"o{n}" for n in range(channels[1])]), *given],
                "test_tensor": {"source": "out.npy"},
                "postprocessing": list(post),
            }
        ],
        "weights": {"torchscript": {"source": "weights.torchscript", "pytorch_version": "2.0.0"}},
        **changes,
    }
    (folder / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    return folder


def step(name, **kwargs):
    return {"id": name, "kwargs": kwargs} if kwargs else {"id": name}


def zero_mean(image):
    return (image - image.mean()) / (image.std() + 1e-6)


def ranged(image, low, high):
    low, high = np.percentile(image, (low, high))
    return (image - low) / (high - low + 1e-6)


@pytest.mark.parametrize(
    ("pre", "post", "expected"),
    [
        ([], [], lambda image, network: network(image)),
        (
            [step("zero_mean_unit_variance", axes=["channel", "z", "y", "x"])],
            [step("sigmoid")],
            lambda image, network: expit(network(zero_mean(image))),
        ),
        (
            [
                step("scale_range", axes=["z", "y", "x"], min_percentile=1.0, max_percentile=99.8),
                step("clip", min=0.0, max=1.0),
            ],
            [step("softmax", axis="channel")],
            lambda image, network: softmax(network(np.clip(ranged(image, 1, 99.8), 0, 1)), axis=1),
        ),
        (
            [step("scale_linear", gain=0.01, offset=-0.5)],
            [step("sigmoid"), step("scale_linear", gain=2.0, offset=1.0)],
            lambda image, network: 2 * expit(network(0.01 * image - 0.5)) + 1,
        ),
        (
            [step("fixed_zero_mean_unit_variance", mean=200.0, std=120.0), step("scale_linear", gain=3.0)],
            [step("clip", min=-0.2, max=0.3)],
            lambda image, network: np.clip(network(3 * (image - 200) / 120), -0.2, 0.3),
        ),
        (
            [step("scale_linear", gain=7.0), step("zero_mean_unit_variance", axes=["z", "y", "x", "channel"])],
            [step("sigmoid"), step("binarize", threshold=0.55)],
            lambda image, network: (expit(network(zero_mean(image))) > 0.55).astype(np.float32),
        ),
    ],
)
def test_what_comes_before_and_after_a_network_is_done_as_its_makers_say(tmp_path, pre, post, expected):
    path = foreign(tmp_path / "p", pre=pre, post=post, expected=expected)
    model = load_model(path)
    assert run_test(path, model).is_good
    assert (model.in_channels, model.out_channels, model.usage.outputs) == (1, 2, ("o0", "o1"))


def each(function):
    """Of every channel of (N, C, Z, Y, X) by itself."""
    return lambda image: np.stack([function(image[:, c]) for c in range(image.shape[1])], axis=1)


def channelwise(numbers):
    return np.array(numbers, np.float32)[:, None, None, None]


@pytest.mark.parametrize(
    ("pre", "scaled"),
    [
        ([step("zero_mean_unit_variance", axes=["z", "y", "x"])], each(zero_mean)),
        ([step("zero_mean_unit_variance", axes=["channel", "z", "y", "x"])], zero_mean),
        ([step("zero_mean_unit_variance")], zero_mean),
        ([step("scale_range", axes=["z", "y", "x"], min_percentile=3.0)], each(lambda c: ranged(c, 3, 100))),
        ([step("scale_range", axes=["channel", "z", "y", "x"], min_percentile=3.0)], lambda i: ranged(i, 3, 100)),
        (
            [step("fixed_zero_mean_unit_variance", mean=[150.0, 250.0], std=[40.0, 90.0], axis="channel")],
            lambda i: (i - channelwise([150, 250])) / channelwise([40, 90]),
        ),
        (
            [step("scale_linear", gain=2.0), step("scale_linear", gain=[0.1, 3.0], offset=0.5, axis="channel")],
            lambda i: 2 * i * channelwise([0.1, 3]) + 0.5,
        ),
    ],
)
def test_several_channels_are_scaled_each_or_together_as_the_description_says(tmp_path, pre, scaled):
    def expected(image, network):
        # The second channel is brighter, so that numbers of one are not those of the other.
        return network(scaled(image))

    path = foreign(tmp_path / "p", pre=pre, channels=(2, 2), expected=expected, bright=2)
    model = load_model(path)
    assert run_test(path, model).is_good
    assert (model.in_channels, model.usage.inputs) == (2, ("i0", "i1"))


def test_sizes_become_stride_and_the_smallest_patch(tmp_path):
    sizes = {"z": {"min": 4, "step": 1}, "y": {"min": 32, "step": 16}, "x": {"tensor_id": "a", "axis_id": "y"}}
    model = load_model(foreign(tmp_path / "p", sizes=sizes))
    assert (model.stride, model.patch_min, model.patch) == ((1, 16, 16), (4, 32, 32), (None, None, None))
    model = load_model(foreign(tmp_path / "q", sizes={"z": 8, "y": {"min": 2, "step": 2}, "x": 12}))
    assert (model.stride, model.patch_min, model.patch) == ((1, 2, 1), (8, 2, 12), (8, None, 12))
    with pytest.raises(ModelError, match=r"5 \+ n \* 4 long"):
        load_model(foreign(tmp_path / "r", sizes={"z": 8, "y": {"min": 5, "step": 4}, "x": 12}))


def test_a_network_of_planes_sees_every_plane_by_itself(tmp_path, applied):
    path = foreign(
        tmp_path / "p", space="yx", channels=(1, 3), post=[step("sigmoid")], expected=lambda i, n: expit(n(i))
    )
    model = load_model(path)
    assert (model.stride, model.patch_min, model.usage.activation) == ((1, 2, 2), (1, 4, 4), "sigmoid")
    assert run_test(path, model).is_good
    volume = np.random.default_rng(0).random((2, 1, 5, 6, 8), dtype=np.float32)
    whole = applied(model, volume)
    assert whole.shape == (2, 3, 5, 6, 8)
    for z in range(5):
        np.testing.assert_allclose(applied(model, volume[:, :, z : z + 1]), whole[:, :, z : z + 1], atol=1e-6)


def test_a_package_of_format_04_is_read(tmp_path):
    path = foreign(tmp_path / "p", expected=lambda image, network: expit(network(zero_mean(image))))
    rdf = {
        "type": "model",
        "format_version": "0.4.9",
        "name": "Older",
        "description": "From before.",
        "authors": [{"name": "Ada"}],
        "license": "MIT",
        "cite": [{"text": "x", "url": "https://example.org"}],
        "documentation": "README.md",
        "covers": ["cover.png"],
        "timestamp": "2022-01-01T00:00:00",
        "test_inputs": ["in.npy"],
        "test_outputs": ["out.npy"],
        "inputs": [
            {
                "name": "a",
                "axes": "bczyx",
                "data_type": "float32",
                "shape": {"min": [1, 1, 4, 4, 4], "step": [0, 0, 2, 2, 2]},
                "preprocessing": [
                    {"name": "zero_mean_unit_variance", "kwargs": {"axes": "czyx", "mode": "per_sample"}}
                ],
            }
        ],
        "outputs": [
            {
                "name": "b",
                "axes": "bczyx",
                "data_type": "float32",
                "shape": {"reference_tensor": "a", "scale": [1, 0, 1, 1, 1], "offset": [0, 1, 0, 0, 0]},
                "halo": [0, 0, 0, 1, 1],
                "postprocessing": [{"name": "sigmoid"}],
            }
        ],
        "weights": {"torchscript": {"source": "weights.torchscript"}},
    }
    (path / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    model = load_model(path)
    assert (model.stride, model.patch_min, model.halo) == ((2, 2, 2), (4, 4, 4), (0, 1, 1))
    assert model.usage.normalization == Normalization(kind="mean-sd")
    assert run_test(path, model).is_good


def test_onnx_in_a_package_is_used_where_there_is_no_torchscript(tmp_path, applied, patches):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    path = foreign(tmp_path / "p")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = ({2: torch.export.Dim("z"), 3: torch.export.Dim("y"), 4: torch.export.Dim("x")},)
        module = Convolution((1, 2), 3).eval()
        program = torch.onnx.export(
            module, (torch.zeros(1, 1, 8, 8, 8),), dynamic_shapes=shapes, dynamo=True, verbose=False
        )
        program.save(str(path / "net.onnx"), external_data=False)
    rdf = yaml.safe_load((path / "rdf.yaml").read_text())
    rdf["weights"] = {"onnx": {"source": "net.onnx", "opset_version": 18}}
    (path / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    for place in (path, zipped(path, tmp_path / "p.zip")):
        model = load_model(place)
        assert model.kind == "BioImage Model Zoo, onnx" and run_test(place, model).is_good
    with torch.no_grad():
        np.testing.assert_allclose(applied(model, patches), module(torch.from_numpy(patches)), atol=1e-5)


def test_a_package_that_gives_other_values_than_its_makers_say_is_refused(written, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(written, copy)
    output = np.load(written / "test_output.npy")
    np.save(copy / "test_output.npy", output + np.float32(0.01))
    rdf = yaml.safe_load((copy / "rdf.yaml").read_text())
    rdf["outputs"][0]["test_tensor"] = {"source": "test_output.npy"}
    (copy / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    with pytest.raises(ModelError, match=r"other values for its own test image.*up to 0.01"):
        run_test(copy, load_model(copy))
    rdf["config"]["bioimageio"] = {"reproducibility_tolerance": [{"absolute_tolerance": 0.02}]}
    (copy / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    assert run_test(copy, load_model(copy)).is_good
    rdf["config"]["bioimageio"] = {"reproducibility_tolerance": [{"absolute_tolerance": "large"}]}
    (copy / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    with pytest.raises(ModelError, match="absolute_tolerance"):
        run_test(copy, load_model(copy))


def test_outputs_are_compared_as_bioimageio_does():
    expected = np.full(100_000, 2.0)
    got = expected.copy()
    got[:10] += 0.0031  # beyond 1e-3 + 1e-3 * 2
    assert compare(got, expected, Tolerance()).is_good  # 100 per million may be
    got[10] = np.nan
    assert not compare(got, expected, Tolerance()).is_good
    assert compare(expected + 0.0029, expected, Tolerance()).is_good


def test_scaling_and_activations_of_test_tensors_are_those_of_scipy():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 30, (2, 3, 4, 5, 6))
    np.testing.assert_allclose(activated(logits, "sigmoid"), expit(logits), atol=1e-6)
    np.testing.assert_allclose(activated(logits, "softmax"), softmax(logits, axis=1), atol=1e-6)
    image = rng.normal(5, 2, (1, 4, 5, 6))
    scaled = normalized(image, Normalization(kind="mean-sd"))
    np.testing.assert_allclose((scaled.mean(), scaled.std()), (0, 1), atol=1e-6)
    with pytest.raises(ModelError, match="one value throughout"):
        normalized(np.ones((1, 2, 2, 2)), Normalization(kind="percentiles"))


def parsed(folder, pre, post):
    description = described(Package(foreign(folder, pre=pre, post=post)))
    return description.inputs[0].preprocessing, description.outputs[0].postprocessing


@pytest.mark.parametrize(
    ("pre", "post", "message"),
    [
        ([step("sigmoid")], [], "preprocessing has a step 'sigmoid'"),
        ([step("binarize", threshold=3.0)], [], "preprocessing has a step 'binarize'"),
        ([step("clip", min=0.0), step("zero_mean_unit_variance")], [], "statistics after clip"),
        ([step("zero_mean_unit_variance"), step("scale_range")], [], "statistics after zero_mean_unit_variance"),
        ([step("zero_mean_unit_variance", axes=["y", "x"])], [], "statistics along"),
        ([step("ensure_dtype", dtype="float32"), step("ensure_dtype", dtype="uint8")], [], "made uint8"),
        ([], [step("zero_mean_unit_variance")], "postprocessing has a step 'zero_mean_unit_variance'"),
        ([], [step("scale_mean_variance", reference_tensor="a")], "postprocessing has a step 'scale_mean_variance'"),
        ([], [step("softmax", axis="z")], "softmax goes along z"),
        ([step("scale_linear", gain=[2.0, 3.0], axis="z")], [], "2 numbers along z"),
        ([], [step("binarize", threshold=[0.1, 0.2], axis="channel")], "one per channel"),
        ([], [step("clip", min_percentile=3.0)], "'clip'"),
    ],
)
def test_a_step_that_cannot_be_done_is_refused_by_name(tmp_path, pre, post, message):
    first, last = parsed(tmp_path / "p", pre, post)
    with pytest.raises(ModelError, match=message):
        _ = before(first, "a", frozenset("zyx")), after(last)


# Packages that are damaged, lie, or want to run code.


def test_an_architecture_in_a_package_is_never_imported(tmp_path, payload):
    path = foreign(tmp_path / "p")
    (path / "net.py").write_text(f"open({str(payload.mark)!r}, 'w')\nclass Net: pass\n")
    torch.save({}, path / "weights.pt")
    for place in ({"source": "net.py"}, {"import_from": "net"}):
        entry = {"source": "weights.pt", "pytorch_version": "2.0.0", "architecture": {"callable": "Net", **place}}
        rdf = yaml.safe_load((path / "rdf.yaml").read_text())
        both = rdf["weights"] | {"pytorch_state_dict": entry}
        both["torchscript"]["parent"] = "pytorch_state_dict"
        copy = copied(path, tmp_path / f"both {len(place)} {next(iter(place))}", weights=both)
        assert load_model(copy).kind == "BioImage Model Zoo, torchscript"
        copy = copied(path, tmp_path / f"only {next(iter(place))}", weights={"pytorch_state_dict": entry})
        with pytest.raises(ModelError, match=r"pytorch_state_dict only.*torchscript or onnx"):
            load_model(copy)
    assert not payload.mark.exists()


def test_pickles_in_a_package_are_not_run(written, payload, tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.array([payload.value], dtype=object), allow_pickle=True)
    for name, content, wanted in (
        ("weights.pt", payload.content, "would run code"),
        ("test_input.npy", buffer.getvalue(), "is no array"),
        ("test_output.npy", payload.content, "is no array"),
    ):
        folder = tmp_path / name.replace(".", "_")
        shutil.copytree(written, folder)
        (folder / name).write_bytes(content)
        text = "\n".join(line for line in (folder / "rdf.yaml").read_text().splitlines() if "sha256" not in line)
        (folder / "rdf.yaml").write_text(text)
        for place in (folder, zipped(folder, tmp_path / f"{name}.zip")):
            with pytest.raises(ModelError, match=wanted):
                run_test(place, load_model(place))
    assert not payload.mark.exists()


def test_a_description_cannot_name_python_objects(written, payload, tmp_path):
    folder = tmp_path / "p"
    shutil.copytree(written, folder)
    with (folder / "rdf.yaml").open("a") as file:
        file.write(f"\nicon: !!python/object/apply:os.mkdir [{payload.mark}]\n")
    for call in (digest_of, load_model):
        with pytest.raises(ModelError, match="cannot be read as YAML"):
            call(folder)
    assert not payload.mark.exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("../weights.torchscript", "outside of it"),
        ("/etc/hostname", "outside of it"),
        ("inner/../../weights.torchscript", "outside of it"),
        ("link.torchscript", "outside of it"),
        ("https://example.org/weights.pt", "on the network"),
        ("missing.torchscript", "not in it"),
    ],
)
def test_files_outside_a_package_are_never_read(tmp_path, source, message):
    path = foreign(tmp_path / "p")
    (tmp_path / "weights.torchscript").write_bytes((path / "weights.torchscript").read_bytes())
    (path / "link.torchscript").symlink_to(tmp_path / "weights.torchscript")
    entry = {"torchscript": {"source": source, "pytorch_version": "2.0.0"}}
    rdf = yaml.safe_load((path / "rdf.yaml").read_text()) | {"weights": entry}
    (path / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    with pytest.raises(ModelError, match=message):
        load_model(path)


def test_a_zip_that_holds_names_outside_of_it_writes_nothing(written, tmp_path):
    path = zipped(written, tmp_path / "p.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../evil.txt", "x")
        archive.writestr(f"{tmp_path}/evil.txt", "x")
    load_model(path)
    assert not list(tmp_path.rglob("evil.txt")) and not (tmp_path.parent / "evil.txt").exists()


def test_a_file_of_another_digest_than_the_description_says_is_refused(written, tmp_path):
    folder = tmp_path / "p"
    shutil.copytree(written, folder)
    with (folder / "weights.pt").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match=r"weights.pt of .* is not the file it should be"):
        load_model(folder)


def test_a_zip_bomb_is_refused_unread(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rdf.yaml", bytes(100 * 2**20))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was read"))
    with pytest.raises(ModelError, match="unpacks to 104857600 bytes"):
        load_model(tmp_path / "bomb.zip")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_zip_is_refused(written, tmp_path, keep):
    content = zipped(written, tmp_path / "p.zip").read_bytes()
    (tmp_path / "p.zip").write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ModelError, match="is damaged"):
        load_model(tmp_path / "p.zip")


def test_damaged_bytes_in_a_zip_are_one_error(written, tmp_path):
    path = zipped(written, tmp_path / "p.zip", zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    at = content.find((written / "weights.pt").read_bytes()[:64])
    content[at + 200] ^= 255
    path.write_bytes(bytes(content))
    with pytest.raises(ModelError, match=r"is damaged|not the file"):
        load_model(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rdf: rdf.update(type="dataset"), "is a 'dataset', not a model"),
        (lambda rdf: rdf.update(format_version="0.6.0"), "format 0.6.0"),
        (lambda rdf: rdf.pop("inputs"), "is wrong"),
        (lambda rdf: rdf.update(weights=[]), "names no weights"),
        (lambda rdf: rdf["inputs"][0].update(output_of="other/net"), "output of another network"),
        (lambda rdf: rdf["inputs"].append(rdf["inputs"][0] | {"id": "c"}), "takes 2 arrays"),
        (lambda rdf: rdf["inputs"][0]["axes"].insert(2, rdf["inputs"][0]["axes"].pop(1)), "takes axes bzcyx"),
        (lambda rdf: rdf["inputs"][0]["axes"].append({"type": "time", "size": 1}), r"takes axes bczyx\[time\]"),
        (lambda rdf: rdf["outputs"][0]["axes"][2]["size"].update(offset=-4), "not as long in the output"),
        (lambda rdf: rdf["outputs"][0]["axes"][2].update(scale=2.0), "not as long in the output"),
        (lambda rdf: rdf["outputs"][0]["axes"][1].update(channel_names=["one"]), "gives 2 channels and describes 1"),
        (lambda rdf: rdf["inputs"][0]["axes"][1].update(channel_names=["a", "b", "c"]), "takes no patch"),
    ],
)
def test_a_description_that_does_not_fit_is_one_error(tmp_path, change, message):
    path = foreign(tmp_path / "p")
    rdf = yaml.safe_load((path / "rdf.yaml").read_text())
    change(rdf)
    (path / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    with pytest.raises(ModelError, match=message):
        load_model(path)


def test_a_sample_that_the_network_cannot_take_is_refused(small, tmp_path):
    arguments = {"name": "Names", "description": "d", "config": small.config, "usage": Usage(), "model": small.module}
    with pytest.raises(ModelError, match="sample of shape"):
        write_package(tmp_path / "p", sample_input=np.zeros((3, 40, 40)), authors=[{"name": "A"}], **arguments)
    with pytest.raises(ModelError, match="has no author"):
        write_package(tmp_path / "p", sample_input=np.zeros((32, 40, 40)), authors=[], **arguments)
    arguments |= {"name": "Net", "authors": [{"name": "A"}]}
    with pytest.raises(ModelError, match="cannot be called 'Net'"):
        write_package(tmp_path / "p", sample_input=np.zeros((32, 40, 40)), **arguments)
    assert not (tmp_path / "p").exists()
