import ml_dtypes
import numpy as np
import pytest

from kdhash.retrieval import pack_codes, unpack_codes
from kdhash.retrieval.codes import as_words


def test_most_significant_bit_first():
    codes = np.array([[1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 1, 1]], np.int8)
    np.testing.assert_array_equal(pack_codes(codes), [[128, 3]])


def test_sign_of_zero_is_plus_one():
    values = np.array([[0.0, -0.0, -1e-30, 1e-30, -1, 1, 0, -2]])
    np.testing.assert_array_equal(unpack_codes(pack_codes(values)), [[1, 1, -1, 1, -1, 1, 1, -1]])


@pytest.mark.parametrize("bits", [8, 16, 24, 48, 64, 72, 128, 256, 512])
def test_round_trip(bits):
    codes = np.random.default_rng(bits).choice(np.array([-1, 1], np.int8), (7, bits))
    packed = pack_codes(codes)
    assert packed.dtype == np.uint8
    assert packed.shape == (7, bits // 8)
    unpacked = unpack_codes(packed)
    assert unpacked.dtype == np.int8
    np.testing.assert_array_equal(unpacked, codes)
    np.testing.assert_array_equal(unpack_codes(packed, 8), codes[:, :8])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, ml_dtypes.bfloat16])
def test_any_real_dtype(dtype):
    codes = np.random.default_rng(0).choice([-1, 1], (3, 16))
    np.testing.assert_array_equal(unpack_codes(pack_codes(codes.astype(dtype))), codes)


def test_jax_arrays_are_taken():
    jnp = pytest.importorskip("jax.numpy")
    np.testing.assert_array_equal(pack_codes(jnp.full((2, 8), 0.5)), [[255], [255]])


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.ones((2, 12)), "multiple of 8, got 12"),
        (np.ones((2, 0)), "multiple of 8, got 0"),
        (np.ones(8), r"expected \[n, bits\]"),
        (np.ones((2, 8), bool), "dtype bool"),
        (np.ones((2, 8), np.uint8), "dtype uint8"),
        (np.full((2, 8), "a"), "dtype"),
        (np.full((2, 8), np.nan), "NaN"),
    ],
)
def test_pack_errors(codes, message):
    with pytest.raises(ValueError, match=message):
        pack_codes(codes)


@pytest.mark.parametrize(
    ("packed", "bits", "message"),
    [
        (np.ones((2, 8), np.int8), None, "expected packed codes"),
        (np.ones(8, np.uint8), None, "expected packed codes"),
        (np.ones((2, 0), np.uint8), None, "expected packed codes"),
        (np.ones((2, 1), np.uint8), 16, "from 8 to 8, got 16"),
        (np.ones((2, 2), np.uint8), 12, "got 12"),
        (np.ones((2, 2), np.uint8), 0, "got 0"),
    ],
)
def test_unpack_errors(packed, bits, message):
    with pytest.raises(ValueError, match=message):
        unpack_codes(packed, bits)


def test_words_of_64_bits_are_not_copied_and_odd_sizes_are_padded():
    packed = np.arange(24, dtype=np.uint8).reshape(3, 8)
    words = as_words(packed)
    assert np.shares_memory(words, packed)
    assert words.shape == (1, 3)
    assert not words.flags.writeable
    assert packed.flags.writeable
    wide = as_words(np.full((3, 9), 255, np.uint8))
    np.testing.assert_array_equal(np.bitwise_count(wide).sum(axis=0), [72, 72, 72])
