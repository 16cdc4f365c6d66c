"""A sheet of pictures: the query, and what it found, to be looked at as one picture."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

CELL, MARGIN, LINE, PER_ROW = 144, 8, 14, 6
INK, GREY, PAPER, FRAME = "#202020", "#707070", "#ffffff", "#c03030"


@dataclass(frozen=True)
class Tile:
    """A picture with lines of text below. jpeg: None where there is no thumbnail: then the text stands in its place."""

    jpeg: bytes | None
    lines: Sequence[str]
    query: bool = False


def draw_sheet(tiles: Sequence[Tile]) -> Image.Image:
    """The tiles in rows of six, the query framed."""
    font = ImageFont.load_default(11)
    depth = max(len(tile.lines) for tile in tiles)
    height = CELL + depth * LINE + MARGIN
    columns = min(PER_ROW, len(tiles))
    rows = -(-len(tiles) // PER_ROW)
    sheet = Image.new("RGB", (columns * (CELL + MARGIN) + MARGIN, rows * (height + MARGIN) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        left = MARGIN + number % PER_ROW * (CELL + MARGIN)
        top = MARGIN + number // PER_ROW * (height + MARGIN)
        if tile.jpeg:
            picture = Image.open(io.BytesIO(tile.jpeg)).convert("RGB")
            scale = CELL / max(picture.size)
            # small pictures are enlarged pixel by pixel: nothing is made up
            way = Image.Resampling.BICUBIC if scale < 1 else Image.Resampling.NEAREST
            picture = picture.resize(
                (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), way
            )
            sheet.paste(picture, (left + (CELL - picture.width) // 2, top + (CELL - picture.height) // 2))
        else:
            draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), "#f0f0f0")
            for line, text in enumerate(_wrapped(tile.lines[0], font, CELL - 12)[:9]):
                draw.text((left + 6, top + 6 + line * LINE), text, INK, font)
        if tile.query:
            draw.rectangle((left - 3, top - 3, left + CELL + 2, top + CELL + 2), outline=FRAME, width=2)
        for line, text in enumerate(tile.lines):
            at = (left, top + CELL + 4 + line * LINE)
            draw.text(at, _shortened(text, font, CELL), INK if line == 0 else GREY, font)
    return sheet


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The end of a long text: of a path it is the name."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("..." + text) > width:
        text = text[1:]
    return "..." + text


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
