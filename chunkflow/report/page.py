"""A picture that is drawn in its own pixels, twice as fine, and averaged at the end: smooth lines, exact voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

Pixels: TypeAlias = NDArray[np.uint8]
Point: TypeAlias = tuple[float, float]
Color: TypeAlias = tuple[int, int, int]

FINER = 2
"""Pixels drawn per pixel of the picture, along both axes."""
INK, FAINT, ACCENT = (34, 34, 34), (110, 110, 110), (214, 69, 65)


@dataclass(frozen=True, slots=True)
class Page:
    """Drawing in the coordinates of the picture, x to the right and y down."""

    image: Image.Image
    pen: ImageDraw.ImageDraw
    size: tuple[int, int]

    @classmethod
    def blank(cls, size: tuple[int, int]) -> Page:
        """A white page of (width, height) pixels."""
        image = Image.new("RGB", (size[0] * FINER, size[1] * FINER), "white")
        return cls(image, ImageDraw.Draw(image), size)

    def line(self, points: Sequence[Point], color: Color, width: float = 1.0) -> None:
        self.pen.line([(x * FINER, y * FINER) for x, y in points], color, round(width * FINER), joint="curve")

    def dot(self, at: Point, radius: float, color: Color) -> None:
        x, y = at
        corners = ((x - radius) * FINER, (y - radius) * FINER, (x + radius) * FINER, (y + radius) * FINER)
        self.pen.ellipse(corners, color)

    def rectangle(self, start: Point, stop: Point, color: Color) -> None:
        """Filled, from one corner to the other; one that covers no pixel is none."""
        left, top, right, bottom = (round(value * FINER) for value in (*start, *stop))
        if left < right and top < bottom:
            self.pen.rectangle((left, top, right - 1, bottom - 1), color)

    def text(self, at: Point, text: str, color: Color = INK, *, size: int = 17, anchor: str = "la") -> None:
        self.pen.text((at[0] * FINER, at[1] * FINER), text, color, font(size), anchor=anchor)

    def text_width(self, text: str, *, size: int) -> float:
        return self.pen.textlength(text, font(size)) / FINER

    def paragraph(self, at: Point, text: str, width: float, *, rows: int, size: int, color: Color = INK) -> None:
        """As many words as fit in each of some rows."""
        lines, line = [], ""
        for word in text.split():
            if self.text_width(f"{line} {word}", size=size) > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}".strip()
        for row, shown in enumerate([*lines, line][:rows]):
            self.text((at[0], at[1] + 1.5 * size * row), shown, color, size=size)

    def paste(self, pixels: Pixels, at: Point) -> None:
        """Pixels at the finer resolution."""
        self.image.paste(Image.fromarray(pixels), (round(at[0] * FINER), round(at[1] * FINER)))

    def png(self, *, software: str = "chunkflow", smallest: bool = True) -> bytes:
        """The picture; `software` is what its metadata say made it. The smallest file takes four times as long."""
        file, facts = BytesIO(), PngInfo()
        facts.add_text("Software", software)
        self.image.resize(self.size, Image.Resampling.BOX).save(file, "PNG", optimize=smallest, pnginfo=facts)
        return file.getvalue()


def font(size: int) -> Any:
    """The font that comes with Pillow, in pixels of the picture."""
    return ImageFont.load_default(size * FINER)
