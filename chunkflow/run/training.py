"""A training as a user describes it: pairs of images and labels, a target, a network, and numbers.

Everything that comes from a file is checked here, before anything is opened: unknown keys name the nearest known one,
relative paths are relative to the file. `Training.to_dict` spells every default out, and two trainings with equal
dicts, and equal data, are one training: it goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

import pydantic

from chunkflow.errors import ConfigError, ModelError, nearest
from chunkflow.geometry.box import Triple
from chunkflow.models.augment import Augment
from chunkflow.models.files import PACKAGE_NAME
from chunkflow.models.recipe import Loss, Recipe
from chunkflow.models.targets import Target
from chunkflow.models.usage import Normalization
from chunkflow.plan.descriptions import read_description, set_value
from chunkflow.stages.predict import packaged

T = TypeVar("T")

VERSION = 1
TOP = "training"
"""What errors call the outermost keys."""
PATHS = ("image", "labels")
RENAMED = {"from": "start"}
"""Keys of the file that Python cannot have as names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An OME-Zarr image, and one of labels (or the other image) on the same grid."""

    image: str
    labels: str
    channel: int | str | tuple[int | str, ...] | None = None
    """Of the image, by number or name; a list gives the network several."""

    labels_channel: int | str | None = None
    time: int | None = None
    """Of both, where they have several time points."""

    level: int = 0
    """Of both: 0 is the finest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What is kept from training, and how it is used.

    With pairs of its own nothing is kept. Else a share of the volumes is, or where they are few a slab at the end of
    the longest axis of each; patches of the training never reach into it.
    """

    share: float = 0.2
    """0 validates nothing."""

    pairs: tuple[Pair, ...] = ()
    box: Triple | None = None
    """Voxels of what is predicted and scored at a time, None being two patches along each axis."""

    boxes: int = 4
    """At most so many, those with foreground first."""

    score: str | None = None
    """What decides which weights are kept; None is the usual one of the target."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 0.9:
            raise ConfigError(f"validation: share {self.share} is not between 0 and 0.9", "Use 0.2, say")
        if self.boxes < 1 or (self.box is not None and min(self.box) < 1):
            raise ConfigError(f"validation: {self.boxes} boxes of {self.box}", "Give positive numbers")


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the package of the BioImage Model Zoo says of the network; fill it in before you share it."""

    name: str = "chunkflow network"
    description: str = "A U-Net trained with chunkflow."
    authors: tuple[str, ...] = ("not named",)
    license: str = "CC-BY-4.0"

    def __post_init__(self) -> None:
        if not PACKAGE_NAME.fullmatch(self.name):
            raise ConfigError(
                f"about: name {self.name!r} cannot be that of a package",
                "Use 5 to 128 letters, digits, spaces and _+-()",
            )
        if not self.authors:
            raise ConfigError("about: authors names nobody", "Name one, or leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What is trained on what, and how.

    Raises
    ------
    ConfigError : a value is out of range, or does not go with another.
    """

    pairs: tuple[Pair, ...]
    target: Target = field(default_factory=Target)
    network: Mapping[str, Any] | None = None
    """`dimensions` ("3d", "2.5d" or "2d") and parameters of `UNetConfig`, channels aside, which follow from pairs and
    target. None is the usual network, or that of `start`."""

    start: str | None = None
    """`from` in the file: weights to begin with, in any form that holds our own architecture. A last layer for another
    number of outputs begins anew."""

    freeze: Literal["encoder"] | None = None
    """What is kept as it is in `start`."""

    normalization: Normalization | None = None
    """Of each image, by numbers of its whole volume; None is that of `start`, or else by percentiles."""

    target_normalization: Normalization | None = None
    """Of the other image, for the target "image"; None is as `normalization`."""

    deconvolved: bool | None = None
    """Whether the images were deconvolved; the network's file then says so, and `predict` tells who forgets it."""

    patch: Triple = (48, 48, 48)
    """Voxels that the network sees at a time."""

    foreground: float = 0.8
    """Share of the patches that are centred near a voxel of an object, each class as often as any other."""

    beyond: float = 0.0
    """How far patches may reach beyond the faces of a volume, as a share of their side. What lies there is mirrored, as
    `predict` mirrors it, and counts for nothing: the network learns what objects near a face then look like."""

    augment: Augment = field(default_factory=Augment)
    validation: Validation = field(default_factory=Validation)
    recipe: Recipe = field(default_factory=Recipe)
    cache_gib: float = 2.0
    """Memory for what was read and may be read again."""

    about: About = field(default_factory=About)

    def __post_init__(self) -> None:
        if not self.pairs:
            raise ConfigError("the training has no pairs", "Give pairs: [{image: IMAGE, labels: LABELS}]")
        if len({_channels(pair) for pair in (*self.pairs, *self.validation.pairs)}) > 1:
            raise ConfigError("the pairs have different numbers of channels", "Name as many for each")
        if min(self.patch) < 1:
            raise ConfigError(f"patch {list(self.patch)} is not positive", "Give voxels for z, y, x")
        if not 0 <= self.foreground <= 1:
            raise ConfigError(f"foreground {self.foreground} is not a share", "Give a number from 0 to 1")
        if not 0 <= self.beyond <= 0.5:
            raise ConfigError(f"beyond {self.beyond} is not a share of a patch", "Give a number from 0 to 0.5")
        if self.cache_gib < 0:
            raise ConfigError(f"cache_gib {self.cache_gib} is negative", "Give 0 or more")
        if self.freeze is not None and self.start is None:
            raise ConfigError("freeze: encoder without weights would keep random ones", "Give from: WEIGHTS")
        if self.target.kind == "image" and self.augment.intensity is not None:
            raise ConfigError(
                "augment: intensity changes the image and not the image that is its target",
                "Write augment: {intensity: null}",
            )
        if self.normalization is not None and self.normalization.together:
            raise ConfigError(
                "normalization: together, and a training scales each channel by its own numbers", "Leave it out"
            )
        if self.target_normalization is not None and self.target.kind != "image":
            raise ConfigError(f"target_normalization does not go with {self.target.kind}", "Leave it out")
        self.recipe.loss_for(self.target.activation)

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return _channels(self.pairs[0])

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """The training in a file. `overrides` are key=value or key.key=value."""
        file = Path(path)
        content = read_description(file, called="training", remedy="Start with version: 1 and pairs:")
        return cls.from_dict(content, folder=file.parent, overrides=overrides)

    @classmethod
    def from_dict(
        cls, content: Mapping[str, Any], *, folder: Path | None = None, overrides: Sequence[str] = ()
    ) -> Self:
        """The training that a YAML file would hold; relative paths are relative to `folder`."""
        values = dict(content)
        for override in overrides:
            _override(override, values)
        if values.pop("version", None) != VERSION:
            raise ConfigError(
                f"version {content.get('version')!r} of the training is not known", f"Write version: {VERSION}"
            )
        values = {RENAMED.get(key, key): value for key, value in values.items()}
        own = {f.name for f in fields(cls)} - {"recipe"}
        recipe = {f.name for f in fields(Recipe)}
        names = sorted({*own, *recipe, *RENAMED} - set(RENAMED.values()))
        for key in values:
            if key not in own | recipe:
                raise ConfigError(f"unknown key {key!r} in the training", nearest(str(key), names))
        if "loss" in values:
            values["loss"] = _loss(values["loss"])
        if "augment" in values or _kind(values) == "image":
            values["augment"] = _augment(values.get("augment", {}), _kind(values))
        given = {key: values.pop(key) for key in list(values) if key in recipe}
        base = folder or Path()
        for key in ("pairs", "validation"):
            values[key] = _with_paths(values.get(key), base)
        if isinstance(values.get("start"), str):
            values["start"] = packaged(values["start"], base)
        values = {key: value for key, value in values.items() if value is not None}
        return parsed(cls, {"pairs": [], **values, "recipe": given}, TOP)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads, every default spelt out."""
        values = _plain(self)
        recipe = values.pop("recipe")
        loss = self.recipe.loss_for(self.target.activation)
        recipe["loss"] = {"terms": str(loss), "gamma": loss.gamma, "alpha": loss.alpha}
        backwards = {new: old for old, new in RENAMED.items()}
        return {"version": VERSION, **{backwards.get(key, key): value for key, value in values.items()}, **recipe}


def parsed(kind: type[T], values: Any, where: str) -> T:
    """The dataclass with these values, and the dataclasses inside it; errors name the key.

    Raises
    ------
    ConfigError : a key is unknown, or a value does not fit.
    """
    if isinstance(values, kind):
        return values
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {values!r}, not keys and values", "Write key: value lines")
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key {key!r} in {where}", nearest(str(key), known))
    hints = get_type_hints(kind)
    inner = {key: _parsed_inside(hints[key], value, _place(where, key)) for key, value in values.items()}
    try:
        return pydantic.TypeAdapter(kind).validate_python(inner)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError | ModelError):
            raise cause from error
        key = str(first["loc"][0])
        words = _words(hints[key])
        remedy = nearest(first["input"], words) if words and isinstance(first["input"], str) else first["msg"]
        raise ConfigError(f"{where}: {key} is {first['input']!r}", remedy) from error


def _place(where: str, key: str) -> str:
    if where == TOP:
        return TOP if key == "recipe" else key
    return f"{where}: {key}"


def _parsed_inside(hint: Any, value: Any, where: str) -> Any:
    """A value for a field: mappings become the dataclass that the hint names, also in lists."""
    options = (hint, *get_args(hint))
    kinds = [option for option in options if is_dataclass(option)]
    if kinds and isinstance(value, Mapping):
        return parsed(kinds[0], value, where)  # type: ignore[arg-type]
    if kinds and isinstance(value, list | tuple):
        return tuple(_parsed_inside(kinds[0], item, where) for item in value)
    return value


def _words(hint: Any) -> list[str]:
    """The words that a hint allows; none where it allows anything else too."""
    if get_origin(hint) is Literal:
        return [word for word in get_args(hint) if isinstance(word, str)]
    return [word for option in get_args(hint) for word in _words(option)]


def _kind(values: Mapping[str, Any]) -> Any:
    target = values.get("target")
    return target.get("kind") if isinstance(target, Mapping) else getattr(target, "kind", None)


def _augment(value: Any, kind: Any) -> Any:
    """Null is none of all, a key that is left out its default; true is the default of one; for images, intensity is off
    unless it is asked for."""
    if isinstance(value, Augment):
        return value
    if value is None or value is False or value == "none":
        return Augment.none()
    if not isinstance(value, Mapping):
        raise ConfigError(f"augment is {value!r}", "Write augment: {flip: {...}, ...}, or none")
    named: dict[str, Any] = {
        key: {} if item is True else None if item is False else item for key, item in value.items()
    }
    return {"intensity": None, **named} if kind == "image" else named


def _loss(value: Any) -> Any:
    if isinstance(value, str):
        return Loss.of(value)
    if isinstance(value, Mapping) and isinstance(value.get("terms"), str):
        return {**value, "terms": Loss.of(value["terms"]).terms}
    return value


def _with_paths(value: Any, base: Path) -> Any:
    """A copy in which images and labels are relative to the folder of the file."""
    if isinstance(value, Mapping):
        return {
            key: str(base / item)
            if key in PATHS and isinstance(item, str) and "://" not in item
            else _with_paths(item, base)
            for key, item in value.items()
        }
    return [_with_paths(item, base) for item in value] if isinstance(value, list | tuple) else value


def _override(text: str, values: dict[str, Any]) -> None:
    name, equals, value = text.partition("=")
    if not equals or not name or name.endswith("."):
        raise ConfigError(f"--set {text!r} is not key=value", "For example --set steps=500 or --set target.soft=true")
    set_value(values, name, value, option=text)


def _channels(pair: Pair) -> int:
    return len(pair.channel) if isinstance(pair.channel, tuple) else 1


def _plain(value: Any) -> Any:
    """Dataclasses as dicts, tuples as lists: what YAML and JSON hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain({f.name: getattr(value, f.name) for f in fields(value)})
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
