"""The channels of the input that a network of several sees, opened and checked before anything runs.

    predict: {channels: [mito, dna]}    -> "input:0" and "input:2", the array of the input at those channels

Stages in front of the network that make another image of it know one channel, so they are refused, resampling aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from chunkflow.errors import ConfigError
from chunkflow.plan.opened import channel_number
from chunkflow.plan.pipeline import Pipeline
from chunkflow.stages.base import ChannelImage
from chunkflow.stages.predict import Predict
from chunkflow.stages.resample import Resample
from chunkflow.storage.copies import copied
from chunkflow.storage.omezarr import channel_of
from chunkflow.storage.volume import Volume


def network_channels(pipeline: Pipeline, source: Volume) -> tuple[tuple[str, Volume], ...]:
    """What the network of a pipeline reads of the input, in its order, by the names that steps read it by; nothing
    where it sees what reaches its stage. A channel may stand twice.

    Raises
    ------
    ConfigError, ModelError : the network takes another number of channels, or a stage restores one of them.
    InputError : the image has no such channel.
    """
    stage = next((stage for stage in pipeline.stages if isinstance(stage, Predict)), None)
    if stage is None or pipeline.input.kind != "image":
        return ()
    count = dict(zip(source.axes, source.array.shape, strict=True)).get("c", 1)
    volumes = [source] if count == 1 else [channel_of(source, number) for number in range(count)]
    chosen = stage.channels_of([volume.channel for volume in volumes], at_hand=copied)
    if not chosen:
        return ()
    _check_raw(pipeline, stage, len(chosen))
    opened = [volumes[c] if isinstance(c, int) and 0 <= c < count else channel_of(source, c) for c in chosen]
    return tuple((f"input:{channel_number(volume)}", volume) for volume in opened)


def network_images(opened: Sequence[tuple[str, Volume]]) -> tuple[ChannelImage, ...]:
    """The same for the stage."""
    return tuple(
        ChannelImage(array=name, dtype=volume.dtype.name, name=volume.channel or name.removeprefix("input:"))
        for name, volume in opened
    )


def _check_raw(pipeline: Pipeline, stage: Predict, count: int) -> None:
    before = takewhile(lambda other: other is not stage, pipeline.stages)
    makers = [s.key for s in before if getattr(s, "makes_image", False) and not isinstance(s, Resample)]
    if not makers:
        return
    named = " and ".join(makers)
    if count == 1:
        raise ConfigError(
            f"predict: the channel that channels names is read as stored, and {named} stands in front",
            f"Leave channels out, to show the network what {named} makes of the input's channel",
        )
    them = "it" if len(makers) == 1 else "them"
    raise ConfigError(
        f"predict: the network sees {count} channels of the input as stored, and {named} would change one alone",
        f"Leave {named} out; or run {them} for each channel, with input: {{channel: ...}}, make one image of them, and "
        "predict on that",
    )
