"""`train` from OME-Zarr pairs to a folder that is loaded and predicts; interrupted, it ends with the same weights."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import ndimage

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

import chunkflow as cf  # noqa: E402
from chunkflow.errors import ConfigError, InputChangedError, InputError, ModelError, UsageError  # noqa: E402
from chunkflow.geometry.scale import Scale  # noqa: E402
from chunkflow.models import load_model, save_model  # noqa: E402
from chunkflow.models.augment import Augment  # noqa: E402
from chunkflow.models.train import applied  # noqa: E402
from chunkflow.models.unet import UNet, UNetConfig  # noqa: E402
from chunkflow.models.usage import Normalization  # noqa: E402
from chunkflow.run.check import check  # noqa: E402
from chunkflow.run.train import Training, train  # noqa: E402
from chunkflow.run.validation import predicted  # noqa: E402
from chunkflow.stages.predict import packaged  # noqa: E402
from chunkflow.storage.layout import layout_for_core  # noqa: E402
from chunkflow.storage.omezarr import Channel  # noqa: E402
from chunkflow.storage.omezarr_write import write_image_group  # noqa: E402
from chunkflow.storage.volume import create_array  # noqa: E402

SHAPE = (16, 40, 48)
UM = (0.2, 0.1, 0.1)


def balls(seed):
    """(image, labels): bright balls that sometimes touch, noisy, and their numbers."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint16)
    z, y, x = np.indices(SHAPE)
    for k in range(1, 13):
        at = rng.uniform((3, 5, 5), np.array(SHAPE) - (3, 5, 5))
        near = (2 * (z - at[0])) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2 < 25
        labels[near & (labels == 0)] = k
    image = 100 + 400 * ndimage.gaussian_filter((labels > 0).astype(float), (0.5, 1, 1))
    return rng.poisson(image).astype(np.uint16), labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_volume):
    path = tmp_path_factory.mktemp("pairs")
    for seed in range(2):
        image, labels = balls(seed)
        write_volume(path / f"image{seed}.ome.zarr", image, UM)
        write_volume(path / f"labels{seed}.ome.zarr", labels, UM)
        write_volume(path / f"classes{seed}.ome.zarr", (labels > 0) + (labels > 6).astype(np.uint8), UM)
        clean = 100 + 400 * ndimage.gaussian_filter((labels > 0).astype(np.float32), (0.5, 1, 1))
        write_volume(path / f"clean{seed}.ome.zarr", clean, UM)
    return path


def described(folder, labels="labels", **changes):
    usual = {
        "version": 1,
        "pairs": [
            {"image": str(folder / f"image{s}.ome.zarr"), "labels": str(folder / f"{labels}{s}.ome.zarr")}
            for s in range(2)
        ],
        "validation": {"share": 0.3, "boxes": 3},
        "network": {"widths": [6, 12], "norm": "batch", "pools": [[1, 2, 2]]},
        "patch": [8, 16, 16],
        "steps": 12,
        "threads": 1,
        "warm_up": 4,
        "validate_every": 5,
        "checkpoint_every": 3,
        "learning_rate": 0.01,
        "deconvolved": False,
    }
    return {**usual, **changes}


def weights(path):
    return hashlib.sha256((path / "weights.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "model"
    events = []
    return train(described(folder), path, on_event=events.append), events


def test_the_folder_holds_all_that_it_should(trained):
    model, events = trained
    names = {path.name for path in model.path.iterdir()}
    wanted = {"model.yaml", "weights.safetensors", "rdf.yaml", "report.html", "training.json"}
    assert wanted <= names
    assert not (model.path / "training" / "checkpoint.pt").exists()
    record = json.loads((model.path / "training.json").read_text())
    assert len(record["losses"]) == record["step"] == 12
    assert [scores["step"] for scores in record["validations"]] == [5, 10, 12]
    assert record["versions"]["torch"] == torch.__version__
    assert len(record["data"]) == 4
    assert [event["event"] for event in events][:2] == ["reading", "start"]
    assert (events[-1]["event"], sum(event["event"] == "step" for event in events)) == ("end", 12)


def test_the_report_is_one_file_that_asks_for_nothing(trained):
    page = (trained[0].path / "report.html").read_text()
    assert page.count("<svg") >= 3
    assert page.count("data:image/png") >= 3
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
    assert "$" not in page


def test_what_was_trained_is_what_is_loaded(trained, folder):
    """The network as it was validated, without anything folded, against the exported one."""
    model = trained[0]
    loaded = load_model(model.path)
    assert loaded.usage.voxel_um == UM
    assert loaded.usage.outputs == ("foreground",)
    assert loaded.usage.normalization.kind == "percentiles"
    assert loaded.usage.deconvolved is False
    header = yaml.safe_load((model.path / "model.yaml").read_text())
    from safetensors.torch import load_file

    network = UNet(UNetConfig.from_dict(header["config"]))
    network.load_state_dict(load_file(model.path / "weights.safetensors"))
    patch = np.random.default_rng(0).random((1, 1, 8, 16, 16)).astype(np.float32)
    with torch.inference_mode():
        found = torch.sigmoid(loaded.module(torch.from_numpy(patch))).numpy()
    np.testing.assert_allclose(found, applied(network.eval(), "sigmoid")(patch), atol=1e-6)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the library leaves files open
def test_the_package_is_accepted_by_others(trained):
    spec = pytest.importorskip("bioimageio.spec", reason="bioimageio.spec is not installed")
    with spec.ValidationContext(perform_io_checks=True):
        description = spec.load_description(trained[0].path / "rdf.yaml")
    assert description.validation_summary.status == "valid-format", description.validation_summary.format()


def test_the_same_command_again_trains_nothing(trained, folder):
    events = []
    again = train(described(folder), trained[0].path, on_event=events.append)
    assert again.scores == trained[0].scores
    assert [event["event"] for event in events] == ["end"]


def interrupted(folder, path, step):
    """Train until a step is done, then as Ctrl-C does."""

    def tell(event):
        if event["event"] == "step" and event["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(described(folder), path, on_event=tell)


@pytest.mark.parametrize("steps", [(1,), (5, 8), (10,)])
def test_an_interrupted_training_ends_with_the_same_bytes(trained, folder, tmp_path, steps):
    path = tmp_path / "model"
    for step in steps:
        interrupted(folder, path, step)
        assert not (path / "model.yaml").exists()
    model = train(described(folder), path)
    assert weights(path) == weights(trained[0].path)
    for key in ("losses", "validations", "best", "data"):
        assert model.record[key] == trained[0].record[key]


KILLED = """
import os, signal, sys, yaml
from chunkflow.run.train import train

def tell(event):
    if event["event"] == "step" and event["step"] == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

train(yaml.safe_load(open(sys.argv[1])), sys.argv[2], on_event=tell)
"""


@pytest.mark.thorough
def test_a_killed_training_ends_with_the_same_bytes(trained, folder, tmp_path):
    file, path = tmp_path / "train.yaml", tmp_path / "model"
    file.write_text(yaml.safe_dump(described(folder)))
    done = subprocess.run([sys.executable, "-c", KILLED, file, path, "8"], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    train(described(folder), path)
    assert weights(path) == weights(trained[0].path)


def test_another_training_in_the_folder_is_refused_and_named(trained, folder, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(trained[0].path, path)
    shutil.rmtree(path / "training")  # as somebody might who tidies up
    with pytest.raises(UsageError, match="another training: learning_rate differs"):
        train(described(folder, learning_rate=0.02), path)
    with pytest.raises(UsageError, match=r"augment\.blur\.probability differs"):
        train(described(folder, augment={"blur": {"probability": 0.9}}), path)
    model = train(described(folder, steps=2), path, restart=True)
    assert model.record["step"] == 2


def test_a_training_that_starts_over_leaves_no_network_that_loads(trained, folder, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(trained[0].path, path)

    def stop(event):
        if event["event"] == "step":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(described(folder), path, restart=True, on_event=stop)
    with pytest.raises(ModelError):
        load_model(path)
    train(described(folder), path)
    assert weights(path) == weights(trained[0].path)


def test_changed_labels_are_noticed(folder, tmp_path, write_volume):
    copies = described(tmp_path)
    for name in ("image0", "image1", "labels0", "labels1"):
        shutil.copytree(folder / f"{name}.ome.zarr", tmp_path / f"{name}.ome.zarr")
    interrupted(tmp_path, tmp_path / "model", 2)
    shutil.rmtree(tmp_path / "labels1.ome.zarr")
    write_volume(tmp_path / "labels1.ome.zarr", balls(7)[1], UM)
    with pytest.raises(InputChangedError, match="labels1"):
        train(copies, tmp_path / "model")


def test_a_folder_with_something_else_is_refused(folder, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="no training"):
        train(described(folder), tmp_path)


def test_a_simple_task_is_learnt_in_seconds(folder, tmp_path):
    model = train(described(folder, steps=60, validate_every=60), tmp_path / "model")
    assert model.scores["dice"] > 0.9


@pytest.mark.parametrize(
    ("target", "labels", "score", "least"),
    [
        ({"kind": "classes", "classes": 3}, "classes", "dice_1", 0.0),
        ({"kind": "foreground+boundary"}, "labels", "average_precision_50", 0.0),
        ({"kind": "distance", "clip_um": 0.5}, "labels", "correlation", 0.5),
        ({"kind": "affinities", "offsets": [[-1, 0, 0], [0, -1, 0], [0, 0, -1], [0, -3, 0]]}, "labels", "dice", 0.3),
        ({"kind": "image"}, "clean", "psnr", 12.0),
    ],
)
def test_every_kind_of_target_is_trained_and_loads(folder, tmp_path, target, labels, score, least):
    steps = 60 if target["kind"] == "distance" else 25
    changes = {"steps": steps, "validate_every": steps, "normalization": {"kind": "mean-sd"}}
    model = train(described(folder, labels, target=target, **changes), tmp_path / "model")
    assert model.scores[score] >= least
    loaded = load_model(model.path)
    assert len(loaded.usage.outputs) == loaded.out_channels


def test_planes_and_several_channels(folder, tmp_path, write_volume):
    pairs = [
        {"image": str(folder / f"image{s}.ome.zarr"), "labels": str(folder / f"labels{s}.ome.zarr"), "channel": [0, 0]}
        for s in range(2)
    ]
    flat = {"dimensions": "2d", "widths": [4, 8], "norm": "batch"}
    model = train(described(folder, pairs=pairs, network=flat, patch=[1, 16, 16], steps=3), tmp_path / "model")
    loaded = load_model(model.path)
    assert (loaded.in_channels, loaded.stride) == (2, (1, 2, 2))


def test_a_network_of_two_channels_is_trained_checked_and_applied(folder, tmp_path):
    """The second channel is the first, upside down in brightness: what `predict` gives is the network's own output."""
    described_pairs = []
    for seed in range(2):
        image, _ = balls(seed)
        write_channels(tmp_path / f"two{seed}.ome.zarr", {"mito": image, "dark": (4000 - 3 * image).astype(np.uint16)})
        labels = str(folder / f"labels{seed}.ome.zarr")
        pair = {"image": str(tmp_path / f"two{seed}.ome.zarr"), "labels": labels, "channel": ["dark", "mito"]}
        described_pairs.append(pair)
    trained = train(described(folder, pairs=described_pairs, steps=6), tmp_path / "model")
    rdf = yaml.safe_load((trained.path / "rdf.yaml").read_text())
    assert rdf["inputs"][0]["axes"][1]["channel_names"] == ["dark", "mito"]
    assert rdf["inputs"][0]["preprocessing"][0]["kwargs"]["axes"] == ["z", "y", "x"]
    known = check(trained.path)
    assert (known["in_channels"], known["inputs"]) == (2, ["dark", "mito"]) and known["own_test"].startswith("passed")

    stage = cf.Predict(path=str(trained.path), channels=("dark", "mito"), mode="exact", threshold=None)
    pipeline = cf.Pipeline(
        [stage], input=cf.InputOptions(channel="mito"), output=cf.OutputOptions(save=("probability",))
    )
    plan = pipeline.plan(tmp_path / "two0.ome.zarr", tmp_path / "out", block=(8, 16, 16))
    assert not any("was trained on channels" in warning for warning in plan.warnings)
    probability = plan.run(on="serial").probability[:]
    image = balls(0)[0].astype(np.float64)
    both = np.stack([ranged(np.floor(4000 - 3 * image)), ranged(image)]).astype(np.float32)
    padded = np.pad(both, [(0, 0), (16, 16), (16, 24), (16, 16)], mode="reflect")
    module = load_model(trained.path).module
    with torch.inference_mode():
        truth = torch.sigmoid(module(torch.from_numpy(padded)[None]))[0, 0, 16:32, 16:56, 16:64].numpy()
    np.testing.assert_allclose(probability, truth, atol=1e-4)


def ranged(values):
    low, high = (np.percentile(values, q, method="inverted_cdf") for q in (1, 99.8))
    return (values - low) / (high - low)


def write_channels(path, images):
    """{name: (Z, Y, X)} as an OME-Zarr image."""
    scale = Scale(UM)
    shown = [Channel(name, (0.0, 1.0)) for name in images]
    write_image_group(path, name="two", levels={"0": scale}, axes="czyx", channels=shown)
    layout = replace(layout_for_core((64, 64, 64), SHAPE, np.dtype(np.uint16)), leading=(len(images),))
    volume = create_array(path / "0", layout, scale, axes="czyx")
    for number, image in enumerate(images.values()):
        channel = replace(volume, at=(number,))
        channel.write(channel.box, np.ascontiguousarray(image))


def test_a_description_of_an_older_version_has_the_defaults_of_what_came_later(trained, folder, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(trained[0].path, path)
    for file in (path / "training.json", path / "training" / "description.json"):
        content = json.loads(file.read_text())
        del content["training"]["normalization"]["together"]
        file.write_text(json.dumps(content))
    assert train(described(folder), path).scores == trained[0].scores


def test_a_frozen_encoder_is_that_of_the_weights_it_began_with(trained, folder, tmp_path):
    from safetensors.torch import load_file

    changes = {"from": str(trained[0].path), "freeze": "encoder", "network": None, "steps": 4}
    target = {"kind": "foreground+boundary"}
    model = train(described(folder, target=target, **changes), tmp_path / "model")
    before, after = (load_file(path / "weights.safetensors") for path in (trained[0].path, model.path))
    kept = [name for name in before if name.split(".")[0] in ("stem", "down")]
    assert kept and all(torch.equal(before[name], after[name]) for name in kept)
    assert after["head.weight"].shape[0] == 2
    assert not torch.equal(before["up.0.first.weight"], after["up.0.first.weight"])


def test_a_shipped_network_goes_on_by_its_name_and_sees_grey_values_as_it_did(folder, tmp_path):
    changes = {"from": "mitochondria", "network": None, "steps": 1, "batch": 1, "validation": {"share": 0}}
    model = train(described(folder, patch=[16, 16, 16], **changes), tmp_path / "model")
    known, shipped = (load_model(path) for path in (model.path, packaged("mitochondria")))
    assert known.usage.normalization == shipped.usage.normalization != Normalization(kind="percentiles")
    assert known.architecture == shipped.architecture
    plain = {"normalization": {"kind": "mean-sd"}}
    model = train(described(folder, patch=[16, 16, 16], **changes, **plain), tmp_path / "plain")
    assert load_model(model.path).usage.normalization.kind == "mean-sd"


def test_the_network_it_began_with_may_lie_elsewhere_when_it_goes_on_and_not_be_another(trained, folder, tmp_path):
    here, there, path = tmp_path / "here", tmp_path / "there", tmp_path / "model"
    shutil.copytree(trained[0].path, here)
    first = train(described(folder, **{"from": str(here)}, network=None, steps=2), path)
    here.rename(there)
    again = described(folder, **{"from": str(there)}, network=None, steps=2)
    assert train(again, path).scores == first.scores
    other = UNetConfig(widths=(6, 12), pools=((1, 2, 2),))
    save_model(UNet(other), other, there)
    with pytest.raises(UsageError, match="another training: from"):
        train(again, path)


@pytest.mark.thorough
def test_pairs_of_an_object_store_give_the_weights_of_the_same_files_on_disk(trained, folder, tmp_path, bucket):
    for path in folder.rglob("*"):
        if path.is_file():
            (bucket / "pairs" / path.relative_to(folder).as_posix()).upload(path)
    pairs = [
        {name: str(bucket / "pairs" / f"{name}{seed}.ome.zarr") for name in ("image", "labels")} for seed in range(2)
    ]
    assert pairs[0]["image"].startswith("s3://")
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(described(folder, pairs=pairs)))
    model = train(tmp_path / "train.yaml", tmp_path / "model")  # from a file, so that paths are taken as relative to it
    assert weights(model.path) == weights(trained[0].path)
    first = pairs[0]["labels"].removeprefix(f"{bucket}/")
    labels = folder / "labels1.ome.zarr"
    for path in labels.rglob("*"):
        if path.is_file():
            (bucket / first / path.relative_to(labels).as_posix()).upload(path)
    with pytest.raises(InputChangedError, match="labels0"):
        train(tmp_path / "train.yaml", tmp_path / "model")


@pytest.mark.thorough
def test_two_processes_train_as_one(folder, tmp_path):
    """Without batch norm, whose statistics are of what one process sees, the weights agree but for rounding."""
    from safetensors.torch import load_file

    changes = {"network": {"widths": [8], "norm": "none"}, "steps": 4, "validate_every": 2, "patience": 1}
    both = train(described(folder, **changes), tmp_path / "both", workers=2, device="cpu")
    alone = train(described(folder, **changes), tmp_path / "alone", device="cpu")
    one, other = (load_file(model.path / "weights.safetensors") for model in (both, alone))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-4)


def test_prediction_of_a_box_is_that_of_the_network_where_patches_agree():
    """A network of one voxel's reach gives the same from patches as from the whole box."""
    image = np.random.default_rng(0).random((2, 11, 21, 18)).astype(np.float32)
    found = predicted(lambda patches: patches.sum(axis=1, keepdims=True), image, (8, 8, 8), (2, 2, 2))
    np.testing.assert_allclose(found[0], image.sum(axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"pairs": []}, ConfigError, "no pairs"),
        ({"patch": [8, 15, 16]}, ModelError, r"not a multiple of the network's stride \[1, 2, 2\]\. Use \[8, 16, 16\]"),
        ({"patch": [16, 40, 32]}, ConfigError, "too few to keep a slab"),
        ({"target": {"kind": "distanc"}}, ConfigError, "Did you mean 'distance'"),
        ({"validation": {"score": "diec"}}, UsageError, "Use one of dice, iou"),
        ({"network": {"width": [4]}}, ModelError, "Did you mean 'widths'"),
        ({"network": {"in_channels": 2}}, ModelError, "follows from the pairs"),
        ({"network": {"widths": [4, 8], "norm": "instance"}, "patch": [2, 2, 2]}, ModelError, "instance norm takes"),
        ({"network": {"widths": [4, 8], "norm": "batch"}, "patch": [2, 2, 2], "batch": 1}, ModelError, "a batch of 1"),
        ({"loss": "mse"}, ConfigError, "does not fit"),
        ({"from": "nowhere"}, ModelError, "no network at nowhere"),
        ({"target": {"kind": "image"}, "augment": {"intensity": {}}}, ConfigError, "intensity: null"),
        ({"about": {"name": "Net"}}, ConfigError, "'Net' cannot be that of a package"),
        ({"about": {"authors": []}}, ConfigError, "names nobody"),
        ({"normalization": {"kind": "mean-sd", "together": True}}, ConfigError, "each channel by its own numbers"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(folder, tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        train(described(folder, **changes), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda image, labels: (image, labels[:-1], UM, UM), "voxels, "),
        (lambda image, labels: (image, labels, UM, (0.2, 0.1, 0.11)), "voxels of 0.2 x 0.1 x 0.1 um"),
        (lambda image, labels: (image, labels.astype(np.float32), UM, UM), "not labels"),
        (lambda image, labels: (image, np.zeros_like(labels), UM, UM), "no foreground at all"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(tmp_path, write_volume, make, words):
    image, labels, image_um, labels_um = make(*balls(0))
    write_volume(tmp_path / "image.ome.zarr", image, image_um)
    write_volume(tmp_path / "labels.ome.zarr", labels, labels_um)
    pairs = [{"image": str(tmp_path / "image.ome.zarr"), "labels": str(tmp_path / "labels.ome.zarr")}]
    with pytest.raises(InputError, match=words):
        train(described(tmp_path, pairs=pairs), tmp_path / "model")


def test_a_description_survives_being_written_down(folder):
    training = Training.from_dict(described(folder, loss="2 bce + dice", augment={"noise": None, "missing": True}))
    again = Training.from_dict(json.loads(json.dumps(training.to_dict())))
    assert again.to_dict() == training.to_dict()
    assert again.augment.noise is None
    assert again.augment.missing is not None


@pytest.mark.parametrize("word", [None, False, "none"])
def test_augment_null_augments_nothing(folder, word):
    assert Training.from_dict(described(folder, augment=word)).augment == Augment.none()


def test_the_example_is_valid_and_names_no_default_twice():
    file = Path(__file__).parents[2] / "examples" / "train.yaml"
    training = Training.from_yaml(file, ["steps=5", "target.grow=0.5"])
    assert (training.recipe.steps, training.target.grow, training.target.soft) == (5, 0.5, True)
    assert training.pairs[0].image == str(file.parent / "volume" / "image.ome.zarr")


@pytest.mark.parametrize("beyond", [-0.1, 0.6])
def test_patches_that_would_lie_mostly_beyond_a_face_are_refused(beyond):
    with pytest.raises(ConfigError, match="beyond .* is not a share of a patch"):
        Training.from_dict({"version": 1, "pairs": [{"image": "a", "labels": "b"}], "beyond": beyond})
