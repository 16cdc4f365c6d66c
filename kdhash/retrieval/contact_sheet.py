"""Groups of thumbnails as one picture, a heading and rows of pictures for each group."""

import io
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

CELL, MARGIN, LINE, PER_ROW = 128, 8, 14, 8  # pixels; pictures in a row
INK, GREY, PAPER, EMPTY = "#202020", "#707070", "#ffffff", "#eeeeee"
TALLEST = 60_000  # pixels; JPEG ends at 65,500


class Picture(NamedTuple):
    """A thumbnail with a line of text below."""

    jpeg: bytes | None
    """None: the name stands in its place"""
    name: str
    note: str


def draw_groups(groups: Sequence[tuple[str, Sequence[Picture]]]) -> Image.Image:
    """(heading, pictures) of each group, from top to bottom. Raises ValueError where that would be too tall for one picture."""
    row = CELL + 2 * LINE + MARGIN
    heights = [2 * LINE + -(-len(pictures) // PER_ROW) * row for _, pictures in groups]
    if sum(heights) > TALLEST:
        raise ValueError(f"sheet: {len(groups):,} groups are too many for one picture; take fewer groups")
    sheet = Image.new("RGB", (PER_ROW * (CELL + MARGIN) + MARGIN, sum(heights) + MARGIN), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    top = MARGIN
    for (heading, pictures), height in zip(groups, heights, strict=True):
        draw.text((MARGIN, top), heading, INK, ImageFont.load_default(13))
        for place, picture in enumerate(pictures):
            left = MARGIN + place % PER_ROW * (CELL + MARGIN)
            above = top + 2 * LINE - MARGIN // 2 + place // PER_ROW * row
            thumbnail = _thumbnail(picture.jpeg)
            if thumbnail is None:
                draw.rectangle((left, above, left + CELL - 1, above + CELL - 1), EMPTY)
                name = "\n".join(textwrap.wrap(picture.name, 20)[:8])
                draw.multiline_text((left + 6, above + 6), name, GREY, font)
            else:
                sheet.paste(
                    thumbnail,
                    (left + (CELL - thumbnail.width) // 2, above + (CELL - thumbnail.height) // 2),
                )
            draw.text((left, above + CELL + 2), _end_of(picture.name, font), INK, font)
            draw.text((left, above + CELL + 2 + LINE), picture.note, GREY, font)
        top += height
    return sheet


def _thumbnail(jpeg: bytes | None) -> Image.Image | None:
    """It, in a cell; None where there is none, or none that can be read."""
    if jpeg is None:
        return None
    try:
        picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
    except (OSError, Image.DecompressionBombError):
        return None
    scale = CELL / max(picture.size)
    # small pictures are enlarged pixel by pixel: nothing is made up
    way = Image.Resampling.BICUBIC if scale < 1 else Image.Resampling.NEAREST
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), way)


def _end_of(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of its end as fits below a picture: of a path the name says most."""
    if font.getlength(text) <= CELL:
        return text
    while font.getlength("..." + text) > CELL:
        text = text[1:]
    return "..." + text
