"""How a network is trained, in numbers: what it is held against, how fast and how long it learns. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import Literal, Self, TypeAlias

from chunkflow.errors import ConfigError, nearest

Precision: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]

TERMS = ("bce", "dice", "focal", "cross-entropy", "mse", "l1")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
FITTING = {
    "sigmoid": ("bce", "dice", "focal"),
    "softmax": ("cross-entropy", "dice", "focal"),
    "none": ("mse", "l1"),
}
"""Terms that make sense for outputs with an activation."""
USUAL = {"sigmoid": "bce+dice", "softmax": "cross-entropy+dice", "none": "mse"}
"""The usual loss of outputs with an activation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A sum of terms with factors, such as bce + dice.

    Raises
    ------
    ConfigError : a term is unknown, or a number out of range.
    """

    terms: tuple[tuple[str, float], ...] = (("bce", 1.0), ("dice", 1.0))
    """Name and factor."""

    gamma: float = 2.0
    """Of focal: how much less counts what is already right."""

    alpha: float | None = None
    """Of focal, for sigmoid outputs: the weight of foreground, background having 1 - alpha; None weighs them alike."""

    def __post_init__(self) -> None:
        if not self.terms:
            raise ConfigError("loss has no terms", f"Name some of {', '.join(TERMS)}, as in bce+dice")
        for name, factor in self.terms:
            if name not in TERMS:
                raise ConfigError(f"loss {name!r} is not known", nearest(name, TERMS))
            if not (isfinite(factor) and factor > 0):
                raise ConfigError(f"loss: the factor of {name} is {factor}", "Give a positive number")
        if not (isfinite(self.gamma) and self.gamma >= 0):
            raise ConfigError(f"loss: gamma is {self.gamma}", "Give 0 or more; 2 is usual")
        if self.alpha is not None and not 0 < self.alpha < 1:
            raise ConfigError(f"loss: alpha is {self.alpha}", "Give a number between 0 and 1, or null")

    @classmethod
    def of(cls, text: str) -> Self:
        """The loss that is written as "bce+dice" or "2 bce + dice"."""
        terms = []
        for part in text.split("+"):
            words = part.split()
            try:
                factor = float(words[0]) if len(words) == 2 else 1.0
            except ValueError:
                factor = 0.0
            terms.append((words[-1] if words else "", factor))
        return cls(terms=tuple(terms))

    def check(self, activation: str) -> None:
        """Refuse terms that make no sense for outputs with this activation.

        Raises
        ------
        ConfigError : the message names those that do.
        """
        for name, _ in self.terms:
            if name not in FITTING[activation]:
                raise ConfigError(
                    f"loss {name} does not fit this target", f"Use one or a sum of {', '.join(FITTING[activation])}"
                )

    def __str__(self) -> str:
        return " + ".join(name if factor == 1 else f"{factor:g} {name}" for name, factor in self.terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How long and how fast a network learns.

    Raises
    ------
    ConfigError : a number is out of range.
    """

    steps: int = 2000
    batch: int = 2
    """Patches per step, over all processes."""

    loss: Loss | None = None
    """None is the usual one: bce+dice, cross-entropy+dice for classes, mse for numbers."""

    learning_rate: float = 3e-3
    """The highest, of AdamW (Loshchilov & Hutter 2019)."""

    weight_decay: float = 1e-4
    warm_up: int = 30
    """Steps in which the rate rises to its highest."""

    final_rate: float = 0.01
    """Share of the highest that a cosine (Loshchilov & Hutter 2017) ends at."""

    clip: float | None = 5.0
    """Largest norm of the gradient."""

    average: float | None = 0.99
    """Decay per step of the running mean of the weights, which is what is validated and kept. The decay of step t is at
    most (1 + t) / (10 + t), so that early weights are forgotten. None keeps the weights themselves."""

    precision: Precision = "auto"
    """Of the forward pass on a GPU: auto is bfloat16 where the GPU has it, else float16. A CPU always has float32."""

    validate_every: int = 200
    """Steps between validations."""

    patience: int | None = None
    """Validations without a better score after which a training ends; None goes to the last step."""

    checkpoint_every: int = 100
    """Steps that a kill can cost."""

    seed: int = 0
    threads: int | None = None
    """Of torch on a CPU. The last bits depend on it, so the number is kept over an interruption. None: torch's own."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "validate_every", "checkpoint_every"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        _check(0 < self.learning_rate < 1, "learning_rate", self.learning_rate, "a number between 0 and 1")
        _check(0 <= self.weight_decay < 1, "weight_decay", self.weight_decay, "a number from 0 to 1")
        _check(self.warm_up >= 0, "warm_up", self.warm_up, "0 or more")
        _check(0 <= self.final_rate <= 1, "final_rate", self.final_rate, "a share from 0 to 1")
        _check(self.clip is None or 0 < self.clip < float("inf"), "clip", self.clip, "a positive number, or null")
        _check(self.average is None or 0 <= self.average < 1, "average", self.average, "a decay from 0 to 1, or null")
        _check(self.precision in PRECISIONS, "precision", self.precision, " or ".join(PRECISIONS))
        _check(self.patience is None or self.patience >= 1, "patience", self.patience, "1 or more, or null")
        _check(0 <= self.seed < 2**63, "seed", self.seed, "0 or more")
        _check(self.threads is None or self.threads >= 1, "threads", self.threads, "1 or more, or null")

    def loss_for(self, activation: str) -> Loss:
        """The loss of outputs with an activation.

        Raises
        ------
        ConfigError : the one asked for does not fit.
        """
        loss = self.loss or Loss.of(USUAL[activation])
        loss.check(activation)
        return loss

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0: a line up, then half a cosine down."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * 0.5 * (1 + cos(pi * min(1.0, done))))

    def decay(self, step: int) -> float:
        """How much of the running mean is kept after a step, counted from 0."""
        return min(self.average or 0.0, (1 + step) / (10 + step))


def _check(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise ConfigError(f"training: {name} is {value!r}", f"Give {wanted}")
