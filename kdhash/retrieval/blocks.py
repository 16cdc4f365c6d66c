"""Blocks of packed codes, as the segments of an index hold them, and the words in which a scan reads them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8, UInt64

from kdhash.retrieval.codes import check_packed

GROUP = 64  # items that a scan compares at once; a piece starts at a multiple of it in its block
_WIDENED = 2**19  # bytes of words at a time, of codes that have to be copied
ALL = np.empty(0, np.uint64)  # a keep that leaves nothing out
ALL.flags.writeable = False


class Piece(NamedTuple):
    """Consecutive items of one block."""

    codes: UInt8[np.ndarray, "n bytes"]
    keep: UInt64[np.ndarray, " groups"]
    """a bit an item, lowest first: whether it takes part; empty where all do"""
    position: int
    """of the first item, counted over all blocks"""


class Tile(NamedTuple):
    """The words of a piece, or of a part of it, word by word."""

    words: UInt64[np.ndarray, "words n"]
    keep: UInt64[np.ndarray, " groups"]
    position: int


def pieces_of(
    blocks: Sequence[UInt8[np.ndarray, "n bytes"]], skip: Sequence[np.ndarray | None], width: int
) -> list[Piece]:
    """The blocks that are not empty, checked to be codes of `width` bytes; skip: bool [n] or None of each, or none at all.

    Raises ValueError that names the block.
    """
    if len(skip) not in (0, len(blocks)):
        raise ValueError(
            f"skip: expected one array or None a block, got {len(skip)} for {len(blocks)} blocks"
        )
    pieces, position = [], 0
    for i, codes in enumerate(blocks):
        codes = check_packed(f"block {i}", codes)
        if codes.shape[1] != width:
            raise ValueError(
                f"block {i} has codes of {codes.shape[1] * 8} bits, not of {width * 8}: encode all alike"
            )
        left_out = skip[i] if len(skip) else None
        if left_out is not None and (left_out.dtype != bool or left_out.shape != (len(codes),)):
            raise ValueError(
                f"skip of block {i}: expected bool [{len(codes)}], got {left_out.dtype} {left_out.shape}"
            )
        if len(codes):
            pieces.append(Piece(codes, ALL if left_out is None else _keep_words(left_out), position))
        position += len(codes)
    return pieces


def _keep_words(skip: np.ndarray) -> np.ndarray:
    """The complement of bool [n] as bits in uint64, lowest first."""
    keep = np.zeros(-(-len(skip) // GROUP) * 8, np.uint8)
    bits = np.packbits(skip, bitorder="little")
    np.invert(bits, out=keep[: len(bits)])
    words = keep.view("<u8").astype(np.uint64, copy=False)
    words.flags.writeable = False
    return words


def kept_items(keep: UInt64[np.ndarray, " groups"], items: int) -> np.ndarray:
    """bool [items]: which a piece keeps."""
    if not keep.size:
        return np.ones(items, bool)
    return np.unpackbits(keep.astype("<u8", copy=False).view(np.uint8), count=items, bitorder="little").view(
        bool
    )


def divide(pieces: Sequence[Piece], parts: int) -> list[list[Piece]]:
    """The items in order, in at most `parts` lists of about equally many."""
    total = sum(len(piece.codes) for piece in pieces)
    step = max(GROUP, -(-total // (parts * GROUP)) * GROUP)
    lists: list[list[Piece]] = [[]]
    room = step
    for codes, keep, position in pieces:
        first = 0
        while first < len(codes):
            if room == 0:
                lists.append([])
                room = step
            # cut at whole groups, so that the bits of keep stay in line
            last = min(len(codes), first + -(-room // GROUP) * GROUP)
            part = keep[first // GROUP : -(-last // GROUP)]
            lists[-1].append(Piece(codes[first:last], part, position + first))
            room = max(0, room - (last - first))
            first = last
    return lists


def tiles_of(pieces: Sequence[Piece]) -> Iterator[Tile]:
    """The pieces as words, read-only. Codes of 64 bits are not copied; others a tile at a time, into memory used again.

    A tile holds until the next one is asked for. Missing bytes of the last word are zero.
    """
    buffer = np.empty(0, np.uint64)
    for codes, keep, position in pieces:
        words = -(-codes.shape[1] // 8)
        if codes.shape[1] == 8 and codes.flags.c_contiguous and codes.ctypes.data % 8 == 0:
            yield Tile(_read_only(codes.view(np.uint64).reshape(1, -1)), keep, position)
            continue
        step = max(GROUP, _WIDENED // (8 * words) // GROUP * GROUP)
        for first in range(0, len(codes), step):
            part = codes[first : first + step]
            if buffer.size < words * len(part):
                buffer = np.empty(words * len(part), np.uint64)
            tile = buffer[: words * len(part)].reshape(words, -1)
            _widen(part, tile)
            yield Tile(
                _read_only(tile), keep[first // GROUP : -(-(first + len(part)) // GROUP)], position + first
            )


def _widen(codes: np.ndarray, out: np.ndarray) -> None:
    """Packed codes [n, bytes] into words [words, n]; the same words as `as_words` makes."""
    size = codes.shape[1]
    unit = np.dtype(f"u{next(unit for unit in (8, 4, 2, 1) if size % unit == 0)}")
    parts = np.ascontiguousarray(codes)  # of a mapped file no copy
    if parts.ctypes.data % unit.itemsize:
        parts = parts.copy()
    if unit.itemsize == 8:
        out[:] = parts.view(unit).T
        return
    wide = (
        out.reshape(out.shape[1], 1).view(unit)
        if len(out) == 1
        else np.empty((len(codes), 8 * len(out) // unit.itemsize), unit)
    )
    columns = size // unit.itemsize
    wide[:, columns:] = 0
    # column by column: the inner loops are long
    for column, values in enumerate(parts.view(unit).T):
        wide[:, column] = values
    if len(out) > 1:
        out[:] = wide.view(np.uint64).T


def _read_only(words: np.ndarray) -> np.ndarray:
    """A view: Numba compiles a kernel once for writable and once for read-only arrays, and there is to be one sort."""
    view = words.view()
    view.flags.writeable = False
    return view
