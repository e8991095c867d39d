"""What outputs cost, given targets and weights: each sample by itself, then their mean.

So the loss of a batch is the mean of the losses of its halves, whatever is labelled in them, and two processes with one
sample each have the gradient of one process with both. All of it in float32, from outputs without activation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from chunkflow.models.recipe import Loss

LossFunction: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]

SMOOTH = 1.0
"""Voxels that a Dice score counts as right beforehand: a patch with nothing in it has a gradient too."""
LEAST_WRONG = 1e-7
"""Of focal, about float32's step at 1: x^gamma with gamma < 1 has no finite slope at 0, where an output is right."""


def loss_function(loss: Loss, activation: str) -> LossFunction:
    """(outputs, target, weight) -> scalar.

    outputs : (N, K, Z, Y, X), without activation
    target : (N, K, Z, Y, X) float32; for "softmax" (N, 1, Z, Y, X) int64
    weight : (N, 1 or K, Z, Y, X) float32, 0 where nothing is known

    Raises
    ------
    ConfigError : a term does not fit the activation.
    """
    loss.check(activation)

    def total(outputs: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        outputs = outputs.float()
        parts = [factor * _term(name, loss, activation)(outputs, target, weight) for name, factor in loss.terms]
        return torch.stack(parts).sum()

    return total


def _term(name: str, loss: Loss, activation: str) -> LossFunction:
    is_softmax = activation == "softmax"
    if name == "dice":
        return soft_dice_of_classes if is_softmax else soft_dice
    if name == "focal":

        def focal(outputs: Tensor, target: Tensor, weight: Tensor) -> Tensor:
            if is_softmax:
                return focal_of_classes(outputs, target, weight, loss.gamma)
            return binary_focal(outputs, target, weight, loss.gamma, loss.alpha)

        return focal
    return {"bce": bce, "cross-entropy": cross_entropy, "mse": squared_error, "l1": absolute_error}[name]


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean over the voxels and channels of each sample that count, then over samples; 0 where none does."""
    weight = weight.expand_as(values)
    sums = (values * weight).flatten(1).sum(1)
    return (sums / weight.flatten(1).sum(1).clamp(min=1e-6)).mean()


def bce(outputs: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy -t log p - (1 - t) log(1 - p), p = sigmoid(output)."""
    return weighted_mean(functional.binary_cross_entropy_with_logits(outputs, target, reduction="none"), weight)


def soft_dice(outputs: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1) of each sample and channel, their mean.

    The Dice loss of Milletari et al. 2016 (arXiv:1606.04797) with the plain sums of Sudre et al. 2017.
    """
    return _dice(torch.sigmoid(outputs), target, weight)


def soft_dice_of_classes(outputs: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """`soft_dice` of the softmax and every class but the first, which is background."""
    wanted = functional.one_hot(target[:, 0], outputs.shape[1]).movedim(-1, 1).to(outputs.dtype)
    return _dice(torch.softmax(outputs, 1)[:, 1:], wanted[:, 1:], weight)


def _dice(p: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    both = (p * target * weight).flatten(2).sum(2)
    either = ((p + target) * weight).flatten(2).sum(2)
    return (1 - (2 * both + SMOOTH) / (either + SMOOTH)).mean()


def binary_focal(outputs: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float | None) -> Tensor:
    """-a (1 - q)^gamma log q, q being the probability of what is true (Lin et al. 2017, arXiv:1708.02002, eq. 5).

    For targets between 0 and 1, q = p t + (1 - p) (1 - t) in the factor and cross-entropy for the logarithm.
    """
    entropy = functional.binary_cross_entropy_with_logits(outputs, target, reduction="none")
    p = torch.sigmoid(outputs)
    right = p * target + (1 - p) * (1 - target)
    value = (1 - right).clamp(min=LEAST_WRONG) ** gamma * entropy
    if alpha is not None:
        value = value * (alpha * target + (1 - alpha) * (1 - target))
    return weighted_mean(value, weight)


def focal_of_classes(outputs: Tensor, target: Tensor, weight: Tensor, gamma: float) -> Tensor:
    """-(1 - q)^gamma log q, q being the softmax of the true class."""
    logarithm = torch.log_softmax(outputs, 1).gather(1, target)
    return weighted_mean(-((1 - logarithm.exp()).clamp(min=LEAST_WRONG) ** gamma) * logarithm, weight)


def cross_entropy(outputs: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """-log of the softmax of the true class."""
    return weighted_mean(-torch.log_softmax(outputs, 1).gather(1, target), weight)


def squared_error(outputs: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """(output - target)^2."""
    return weighted_mean((outputs - target) ** 2, weight)


def absolute_error(outputs: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """|output - target|."""
    return weighted_mean((outputs - target).abs(), weight)
