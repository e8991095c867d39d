"""Names, colours and contrast of the channels of a TIFF: from OME-XML, or as ImageJ writes them.

ImageJ has no names of channels; what it shows above a plane is the plane's label, so a label that all planes of a
channel share is its name. Its colours are tables of 256 entries: one that runs evenly from black is a colour.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tifffile

from chunkflow.storage.image_source import ChannelStyle
from chunkflow.storage.tiff_scale import listed, ome_pixels


def channel_styles(file: tifffile.TiffFile, series: int, count: int) -> tuple[ChannelStyle, ...]:
    """What a file states of each channel of one image; empty styles where it states another number of them."""
    if file.is_ome:
        found = [_ome_style(channel) for channel in listed(ome_pixels(file, series).get("Channel"))]
    elif file.imagej_metadata:
        found = _imagej_styles(file.imagej_metadata, count)
    else:
        found = []
    return tuple(found) if len(found) == count else (ChannelStyle(),) * count


def _ome_style(channel: Any) -> ChannelStyle:
    color = channel.get("Color")
    shown = None if color is None else f"{(int(color) & 0xFFFFFFFF) >> 8:06X}"
    return ChannelStyle(name=str(channel.get("Name") or ""), color=shown)


def _imagej_styles(described: dict[str, Any], count: int) -> list[ChannelStyle]:
    labels = [str(label).strip() for label in listed(described.get("Labels"))]
    tables = listed(described.get("LUTs"))
    ranges = [float(end) for end in np.ravel(described.get("Ranges") or ())]
    if not ranges and count == 1 and "min" in described and "max" in described:
        ranges = [float(described["min"]), float(described["max"])]
    styles = []
    for number in range(count):
        own = set(labels[number::count])
        window = tuple(ranges[2 * number : 2 * number + 2])
        styles.append(
            ChannelStyle(
                name=own.pop() if len(own) == 1 else "",
                color=_color(tables[number]) if number < len(tables) else None,
                window=(window[0], window[1]) if len(window) == 2 and window[0] < window[1] else None,
            )
        )
    return styles


def _color(table: Any) -> str | None:
    """RRGGBB of a (3, 256) table that runs evenly from black to one colour."""
    values = np.asarray(table)
    if values.shape != (3, 256):
        return None
    full = values[:, -1].astype(float)
    is_even = np.abs(values - np.linspace(0, 1, 256) * full[:, None]).max() <= 1
    return "".join(f"{int(part):02X}" for part in full) if is_even and full.any() else None
