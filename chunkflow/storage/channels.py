"""How the channel that a volume was opened at is shown, by the metadata of the image around it."""

from __future__ import annotations

from chunkflow.errors import InputError
from chunkflow.storage.hierarchy import zarr_kind
from chunkflow.storage.omezarr import Channel, shown_channels
from chunkflow.storage.stores import Place, place_of
from chunkflow.storage.volume import Volume


def image_around(volume: Volume) -> Place | None:
    """Folder of the image that an array lies in, if any."""
    return next((parent for parent in place_of(volume.path).parents if zarr_kind(parent) == "group"), None)


def channel_shown(volume: Volume) -> Channel | None:
    """Name, contrast and colour of a volume's channel; None where the image says nothing of it."""
    folder = image_around(volume)
    try:
        shown = () if folder is None else shown_channels(folder)
    except InputError:
        return None
    letters = [letter for letter in volume.axes if letter not in "zyx"]
    place = dict(zip(letters, volume.at, strict=True)).get("c", 0)
    return shown[place] if place < len(shown) else None
