"""Each loss equals its formula written out in numpy; what nobody labelled counts for nothing."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

from chunkflow.errors import ConfigError  # noqa: E402
from chunkflow.models.losses import loss_function  # noqa: E402
from chunkflow.models.recipe import Loss, Recipe  # noqa: E402

SHAPE = (3, 2, 3, 4, 5)


def case(seed=0, *, soft=False):
    rng = np.random.default_rng(seed)
    outputs = rng.standard_normal(SHAPE)
    target = rng.random(SHAPE) if soft else (rng.random(SHAPE) > 0.6).astype(float)
    weight = (rng.random((3, 1, 3, 4, 5)) > 0.3).astype(float)
    return outputs, target, weight


def found(text, outputs, target, weight, activation="sigmoid", **options):
    loss = Loss(terms=Loss.of(text).terms, **options)
    target = torch.from_numpy(target) if target.dtype == np.int64 else torch.from_numpy(target).float()
    return float(
        loss_function(loss, activation)(torch.from_numpy(outputs).float(), target, torch.from_numpy(weight).float())
    )


def mean_of_samples(values, weight):
    weight = np.broadcast_to(weight, values.shape)
    return np.mean([(v * w).sum() / w.sum() for v, w in zip(values, weight, strict=True)])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum(1, keepdims=True)


def dice(p, t, w):
    both, either = (p * t * w).sum((2, 3, 4)), ((p + t) * w).sum((2, 3, 4))
    return np.mean(1 - (2 * both + 1) / (either + 1))


@pytest.mark.parametrize("soft", [False, True])
def test_binary_cross_entropy(soft):
    x, t, w = case(soft=soft)
    p = sigmoid(x)
    expected = mean_of_samples(-t * np.log(p) - (1 - t) * np.log(1 - p), w)
    assert found("bce", x, t, w) == pytest.approx(expected, rel=1e-5)


def test_soft_dice():
    x, t, w = case()
    assert found("dice", x, t, w) == pytest.approx(dice(sigmoid(x), t, w), rel=1e-5)


def test_terms_add_up_with_their_factors():
    x, t, w = case()
    expected = 2 * found("bce", x, t, w) + found("dice", x, t, w)
    assert found("2 bce + dice", x, t, w) == pytest.approx(expected, rel=1e-6)


def test_focal_loss_is_equation_5_of_lin_et_al():
    x, t, w = case()
    p = sigmoid(x)
    right, alpha = np.where(t == 1, p, 1 - p), np.where(t == 1, 0.25, 0.75)
    expected = mean_of_samples(-alpha * (1 - right) ** 2 * np.log(right), w)
    assert found("focal", x, t, w, alpha=0.25) == pytest.approx(expected, rel=1e-5)


def test_focal_loss_without_focus_is_cross_entropy():
    x, t, w = case(soft=True)
    assert found("focal", x, t, w, gamma=0.0) == pytest.approx(found("bce", x, t, w), rel=1e-6)


def test_cross_entropy_and_focal_loss_of_classes():
    x, _, w = case()
    true = np.random.default_rng(2).integers(0, 2, (3, 1, 3, 4, 5))
    right = np.take_along_axis(softmax(x), true, 1)
    assert found("cross-entropy", x, true, w, "softmax") == pytest.approx(mean_of_samples(-np.log(right), w), rel=1e-5)
    focal = mean_of_samples(-((1 - right) ** 2) * np.log(right), w)
    assert found("focal", x, true, w, "softmax") == pytest.approx(focal, rel=1e-5)


def test_dice_of_classes_leaves_background_out():
    x, _, w = case()
    true = np.random.default_rng(2).integers(0, 2, (3, 1, 3, 4, 5))
    expected = dice(softmax(x)[:, 1:], (true == 1).astype(float), w)
    assert found("dice", x, true, w, "softmax") == pytest.approx(expected, rel=1e-5)


def test_errors_of_numbers():
    x, t, w = case(soft=True)
    assert found("mse", x, t, w, "none") == pytest.approx(mean_of_samples((x - t) ** 2, w), rel=1e-5)
    assert found("l1", x, t, w, "none") == pytest.approx(mean_of_samples(np.abs(x - t), w), rel=1e-5)


@pytest.mark.parametrize("text", ["bce", "dice", "focal", "mse"])
def test_what_has_no_weight_changes_nothing(text):
    x, t, w = case()
    activation = "none" if text == "mse" else "sigmoid"
    other = np.where(np.broadcast_to(w, x.shape) == 0, 7.0, x)
    assert found(text, other, t, w, activation) == found(text, x, t, w, activation)


def test_a_patch_without_any_label_costs_nothing_and_has_no_gradient():
    x = torch.randn(1, 1, 2, 2, 2, requires_grad=True)
    zero = torch.zeros(1, 1, 2, 2, 2)
    loss = loss_function(Loss.of("bce"), "sigmoid")(x, zero, zero)
    loss.backward()
    assert loss.item() == 0
    assert x.grad is not None
    assert not x.grad.any()


@pytest.mark.parametrize("text", ["2 bce + dice", "focal"])
def test_the_loss_of_a_batch_is_the_mean_of_its_samples(text):
    x, t, w = case()
    single = [found(text, x[i : i + 1], t[i : i + 1], w[i : i + 1]) for i in range(3)]
    assert found(text, x, t, w) == pytest.approx(np.mean(single), rel=1e-6)


def test_a_loss_that_does_not_fit_the_outputs_is_refused():
    with pytest.raises(ConfigError, match="Use one or a sum of bce, dice, focal"):
        Recipe(loss=Loss.of("mse")).loss_for("sigmoid")
    with pytest.raises(ConfigError, match="Did you mean 'dice'"):
        Loss.of("bce + dicee")
    with pytest.raises(ConfigError, match="factor of bce"):
        Loss.of("-1 bce")
    assert str(Recipe().loss_for("softmax")) == "cross-entropy + dice"


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_has_a_slope_where_an_output_is_surely_right(activation, gamma):
    outputs = torch.tensor([[40.0, -40.0], [-40.0, 40.0]]).reshape(1, 2, 1, 1, 2).requires_grad_()
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 2, 1, 1, 2)
    if activation == "softmax":
        target = torch.tensor([0, 1]).reshape(1, 1, 1, 1, 2)
    loss = Loss(terms=Loss.of("focal").terms, gamma=gamma)
    value = loss_function(loss, activation)(outputs, target, torch.ones(1, 1, 1, 1, 2))
    value.backward()
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()
