"""Binary codes: signs, packed bytes (most significant bit first) and 64-bit words."""

import numpy as np
from jaxtyping import Int8, Num, UInt8, UInt64


def pack_codes(codes: Num[np.ndarray, "n bits"]) -> UInt8[np.ndarray, "n bytes"]:
    """Real-valued or +-1 codes -> packed bits: a bit is 1 where the value is >= 0, so sign(0) = +1.

    Bits are packed 8 to a byte, most significant first (`np.packbits`): column 0 is the 128 of byte 0.
    Raises ValueError for another rank, a bit count that 8 does not divide, bool or unsigned codes (whose 0
    would count as +1) and NaN.
    """
    values = np.asarray(codes)
    if values.ndim != 2:
        raise ValueError(f"codes: expected [n, bits], got shape {values.shape}")
    if values.dtype.kind not in "if":
        # bfloat16 and its kin register as void types; they are numbers all the same
        if values.dtype.kind != "V" or values.dtype.names is not None:
            raise ValueError(f"codes: expected real values or -1/+1, got dtype {values.dtype}")
        values = values.astype(np.float32)
    if values.shape[1] == 0 or values.shape[1] % 8:
        raise ValueError(f"codes: the number of bits must be a multiple of 8, got {values.shape[1]}")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise ValueError("codes: NaN has no sign; look for the step at which training diverged")
    return np.packbits(values >= 0, axis=1)


def unpack_codes(packed: UInt8[np.ndarray, "n bytes"], bits: int | None = None) -> Int8[np.ndarray, "n bits"]:
    """Packed bits -> int8 codes of -1 and +1; `bits` (a multiple of 8) keeps the first ones only.

    Raises ValueError for anything but uint8 [n, bytes], and for bits that are not there.
    """
    packed = check_packed("packed", packed)
    available = packed.shape[1] * 8
    bits = available if bits is None else bits
    if bits <= 0 or bits % 8 or bits > available:
        raise ValueError(f"bits: expected a multiple of 8 from 8 to {available}, got {bits}")
    return np.unpackbits(packed, axis=1, count=bits).astype(np.int8) * 2 - 1


def check_packed(name: str, packed: UInt8[np.ndarray, "n bytes"]) -> UInt8[np.ndarray, "n bytes"]:
    """The array itself, if it is uint8 [n, bytes] with at least one byte; else ValueError naming it."""
    packed = np.asarray(packed)
    if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] == 0:
        raise ValueError(
            f"{name}: expected packed codes, uint8 [n, bits/8], got {packed.dtype} {packed.shape}; "
            "pack real or -1/+1 codes with pack_codes"
        )
    return packed


def as_words(packed: UInt8[np.ndarray, "n bytes"]) -> UInt64[np.ndarray, "words n"]:
    """Packed codes as 64-bit words, one row per word; missing bytes are zero on both sides of a comparison.

    Read-only, and a view of the input where codes have 64 bits. The order of bytes inside a word is the
    machine's: it does not matter to a popcount.
    """
    if packed.shape[1] % 8:
        packed = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))
    words = np.ascontiguousarray(packed).view(np.uint64).T
    words = np.require(words, requirements=["C", "A"]).view()
    words.flags.writeable = False
    return words
