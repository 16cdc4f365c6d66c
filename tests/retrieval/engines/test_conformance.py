"""What every engine must do, against NumPy. An engine passes all of it, or is no engine of kdhash."""

import numpy as np
import pyarrow as pa
import pytest

from kdhash.retrieval.engines import make_engine, open_engine
from kdhash.retrieval.filters import parse_filter

ENGINES = {
    "exact": {},
    "accelerator": {},
    "faiss_flat": {},
    "faiss_ivf": {},
    "faiss_ivf, 3 lists": {"lists": 3, "recall": 1.0},
    "clickhouse": {},
    "postgres": {},
    "postgres, without pgvector": {"pgvector": False},
}
BITS = (16, 24, 32, 64, 128, 256)
WEIRD = 'we"ird; drop'
HOSTILE = "it's'; DROP TABLE items; --"
FILTERS = (
    'label = "dog"',
    'label != "dog"',
    'label in ("dog", "cät") and not width > 300',
    'width >= 300 or tags has "snow"',
    "not tags has 'snow' and score < 0.5",
    'label like "c*" and indoor = false',
    f'`{WEIRD}` = "{HOSTILE}"',
    "number < 3",  # a column with a name that engines use themselves
    "width in (1, 100, 201)",
)


@pytest.fixture(params=ENGINES)
def make(request):
    """make(bits) -> an empty engine."""
    name, options = request.param.split(",")[0], ENGINES[request.param]
    if name in ("clickhouse", "postgres"):
        factory = request.getfixturevalue(name)
        return lambda bits: factory(bits, **options)
    return lambda bits: make_engine(name, bits, **options)


def some_items(bits, n=90, seed=0):
    """Numbers in no order, some above 2**31, and codes with many ties."""
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(np.concatenate([np.arange(n // 2) * 3, 2**40 + np.arange(n - n // 2)]))
    centres = rng.integers(0, 256, (7, bits // 8), np.uint8)
    noise = rng.integers(0, 256, (n, bits // 8), np.uint8) & rng.integers(0, 256, (n, bits // 8), np.uint8)
    noise &= rng.integers(0, 256, (n, bits // 8), np.uint8)
    codes = centres[rng.integers(0, 7, n)] ^ noise
    codes[n // 2 : n // 2 + 12] = codes[:12]
    return numbers, codes


def some_columns(n, seed=0):
    rng = np.random.default_rng(seed)
    labels = ["dog", "cät", "cow", None, "DOG"]
    return pa.table(
        {
            "id": [f"pic/{row}.jpg" for row in range(n)],
            "label": [labels[row] for row in rng.integers(0, 5, n)],
            "width": pa.array(rng.choice([1, 100, 201, 300, 999], n), pa.int32()),
            "score": pa.array([None if v < 0.1 else float("nan") if v < 0.2 else v for v in rng.random(n)]),
            "tags": [[], ["snow"], ["snow", "ice"], None, ["sun", None]] * (n // 5),
            "indoor": [None, True, False] * (n // 3),
            WEIRD: [HOSTILE, "plain"] * (n // 2),
            "number": np.arange(n),
            "Number": np.arange(n),
        }
    )


def nearest(numbers, codes, query, k, radius):
    """[(distance, number), ...] of one query, in order."""
    distances = np.bitwise_count(codes ^ query).sum(axis=1, dtype=int)
    order = np.lexsort((numbers, distances))
    order = order[distances[order] <= (10**9 if radius is None else radius)][:k]
    return list(zip(distances[order].tolist(), numbers[order].tolist(), strict=True))


def assert_found(engine, found, numbers, codes, queries, k, radius=None):
    assert found.distances.dtype == np.uint16
    assert found.numbers.dtype == np.int64
    assert found.distances.shape == found.numbers.shape == (len(queries), max(found.counts, default=0))
    for row, query in enumerate(queries):
        count = found.counts[row]
        answer = list(zip(found.distances[row].tolist(), found.numbers[row].tolist(), strict=True))
        assert answer[count:] == [(65535, -1)] * (len(answer) - count)
        answer = answer[:count]
        truth = nearest(numbers, codes, query, k, radius)
        if engine.stable:
            assert answer == truth
            continue
        assert answer == sorted(answer)
        assert [distance for distance, _ in answer] == [distance for distance, _ in truth]
        # below the last distance nothing is open
        last = truth[-1][0] if truth else 0
        assert [item for item in answer if item[0] < last] == [item for item in truth if item[0] < last]
        assert set(answer) <= set(nearest(numbers, codes, query, None, None))


@pytest.mark.parametrize("bits", BITS)
def test_search(make, bits):
    numbers, codes = some_items(bits)
    queries = np.concatenate([codes[:3], some_items(bits, seed=1)[1][:5]])
    engine = make(bits)
    engine.add(numbers[:50], codes[:50])
    engine.add(numbers[50:], codes[50:])
    assert engine.count() == 90
    assert engine.bits == bits
    for k, radius in (
        (1, None),
        (10, None),
        (89, None),
        (1000, None),
        (5, bits // 4),
        (None, bits // 3),
        (None, 0),
    ):
        found = engine.search(queries, k, radius)
        assert_found(engine, found, numbers, codes, queries, k, radius)
    assert_found(engine, engine.search(queries[:1], 3), numbers, codes, queries[:1], 3)
    assert engine.search(queries[:0], 3).numbers.shape == (0, 0)


def test_default_k_is_10(make):
    numbers, codes = some_items(32)
    engine = make(32)
    engine.add(numbers, codes)
    assert engine.search(codes[:1]).counts.tolist() == [10]


@pytest.mark.parametrize("bits", [40, 64])
def test_every_bit_counts_once(make, bits):
    codes = np.packbits(
        np.concatenate([np.eye(bits, dtype=bool), np.zeros((1, bits), bool), np.ones((1, bits), bool)]),
        axis=1,
    )
    numbers = np.arange(len(codes))
    engine = make(bits)
    engine.add(numbers, codes)
    assert_found(engine, engine.search(codes, len(codes)), numbers, codes, codes, len(codes))


def test_radius_is_inclusive(make):
    codes = np.packbits(np.tri(17, 16, -1, dtype=bool), axis=1)  # row i has i bits set
    engine = make(16)
    engine.add(np.arange(17), codes)
    for radius in (0, 1, 7, 16, 17):
        assert engine.search(codes[:1], None, radius).numbers[0].tolist() == list(range(min(radius, 16) + 1))
        assert engine.search(codes[:1], 3, radius).counts[0] == min(3, radius + 1)


def test_no_items(make):
    engine = make(64)
    queries = np.zeros((3, 8), np.uint8)
    assert engine.count() == 0
    for k, radius in ((4, None), (None, 9)):
        found = engine.search(queries, k, radius)
        assert found.numbers.shape == found.distances.shape == (3, 0)
        assert found.counts.tolist() == [0, 0, 0]
    assert engine.delete([5]) == 0
    engine.add([], queries[:0])
    assert engine.count() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k: expected a whole number from 1 on"),
        ({"k": -2}, "k: expected a whole number from 1 on"),
        ({"k": 2.5}, "k: expected a whole number from 1 on"),
        ({"k": True}, "k: expected a whole number from 1 on"),
        ({"k": None}, "k and radius are both None"),
        ({"radius": -1}, "radius: expected a whole number from 0 on"),
        ({"codes": np.zeros((1, 4), np.uint8)}, "codes: 32 bits, this engine holds codes of 64"),
        ({"codes": np.zeros((1, 8), np.int8)}, "codes: expected packed codes, uint8"),
        ({"codes": np.zeros(8, np.uint8)}, "codes: expected packed codes, uint8"),
    ],
)
def test_searches_that_are_refused(make, change, message):
    numbers, codes = some_items(64)
    engine = make(64)
    engine.add(numbers, codes)
    with pytest.raises(ValueError, match=message):
        engine.search(**{"codes": codes[:2], "k": 5, **change})


def test_items_that_are_refused(make):
    numbers, codes = some_items(64)
    engine = make(64)
    engine.add(numbers[:20], codes[:20])
    taken = numbers[7]
    for new, new_codes, message in (
        ([4000, taken, 4001], codes[:3], f"numbers: {taken} is there already"),
        ([4000, 4001, 4000], codes[:3], "numbers: 4000 is there twice"),
        ([4000, -1], codes[:2], "numbers: expected 0 to .* got -1"),
        (np.array([2**63], np.uint64), codes[:1], "numbers: expected 0 to .* got 9223372036854775808"),
        ([0.5], codes[:1], "numbers: expected whole numbers"),
        ([4000], codes[:2], "codes: 2 rows for 1 numbers"),
        ([4000], codes[:1, :4], "codes: 32 bits, this engine holds codes of 64"),
        ([4000], codes[:1].astype(float), "codes: expected packed codes, uint8"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.add(new, new_codes)
    assert engine.count() == 20
    assert_found(engine, engine.search(codes[:8], 30), numbers[:20], codes[:20], codes[:8], 30)


def test_columns_that_are_refused(make):
    numbers, codes = some_items(64)
    columns = some_columns(90)
    engine = make(64)
    with pytest.raises(ValueError, match="columns: 90 rows for 20 numbers"):
        engine.add(numbers[:20], codes[:20], columns)
    engine.add(numbers[:20], codes[:20], columns[:20])
    for others, message in (
        (None, "columns: 'id' is missing here, and string in the items"),
        (columns[20:30].drop_columns(["width"]), "columns: 'width' is missing here, and int32"),
        (columns[20:30].append_column("more", [["x"] * 10]), "columns: 'more' is string here, and missing"),
        (columns[20:30].set_column(2, "width", [["x"] * 10]), "columns: 'width' is string here, and int32"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.add(numbers[20:30], codes[20:30], others)
    assert engine.count() == 20


def test_delete_and_add_again(make):
    numbers, codes = some_items(64)
    engine = make(64)
    engine.add(numbers, codes, some_columns(90))
    engine.search(codes[:1], 5)  # whatever is prepared at the first search must follow
    gone = np.concatenate([numbers[:30], [10**12, 1]])  # two that are not there
    assert engine.delete(gone) == 30
    assert engine.delete(gone) == 0
    assert engine.count() == 60
    assert_found(engine, engine.search(codes[:8], 100), numbers[30:], codes[30:], codes[:8], 100)
    engine.add(numbers[:10], codes[20:30], some_columns(90)[:10])  # numbers of old, with other codes
    numbers, codes = np.concatenate([numbers[30:], numbers[:10]]), np.concatenate([codes[30:], codes[20:30]])
    assert engine.count() == 70
    assert_found(engine, engine.search(codes[:8], 100), numbers, codes, codes[:8], 100)
    assert engine.delete(numbers) == 70
    assert engine.count() == 0
    assert engine.search(codes[:2], 3).counts.tolist() == [0, 0]


def test_filters(make):
    numbers, codes = some_items(64)
    columns = some_columns(90)
    engine = make(64)
    engine.add(numbers[:40], codes[:40], columns[:40])
    engine.add(numbers[40:], codes[40:], columns[40:])
    for text in FILTERS:
        where = parse_filter(text)
        keep = where.mask(columns)
        assert 0 < keep.sum() < 90, text
        for k, radius in ((7, None), (1000, 20), (None, 24)):
            found = engine.search(codes[:8], k, radius, where)
            assert_found(engine, found, numbers[keep], codes[keep], codes[:8], k, radius)
    nothing = engine.search(codes[:2], 5, where=parse_filter('label = "\\" OR 1=1 --"'))
    assert nothing.counts.tolist() == [0, 0]
    assert nothing.numbers.shape == (2, 0)
    with pytest.raises(ValueError, match="no column 'lable'; did you mean 'label'"):
        engine.search(codes[:1], 5, where=parse_filter('lable = "dog"'))
    with pytest.raises(ValueError, match="column 'width' is int32"):
        engine.search(codes[:1], 5, where=parse_filter('width = "dog"'))


def test_a_filter_without_columns(make):
    numbers, codes = some_items(64)
    engine = make(64)
    engine.add(numbers, codes)
    with pytest.raises(ValueError, match="no column|without columns"):
        engine.search(codes[:1], 5, where=parse_filter('label = "dog"'))


def test_save_and_open(make, tmp_path):
    numbers, codes = some_items(128)
    columns = some_columns(90)
    engine = make(128)
    engine.add(numbers[:80], codes[:80], columns[:80])
    engine.search(codes[:1])
    engine.save(tmp_path / "saved")
    with pytest.raises(FileExistsError, match="saved is already there"):
        engine.save(tmp_path / "saved")
    engine.close()
    engine = open_engine(tmp_path / "saved")
    try:
        assert (engine.bits, engine.count()) == (128, 80)
        assert_found(engine, engine.search(codes[:8], 9), numbers[:80], codes[:80], codes[:8], 9)
        where = parse_filter('label = "dog"')
        keep = where.mask(columns[:80])
        found = engine.search(codes[:8], 9, where=where)
        assert_found(engine, found, numbers[:80][keep], codes[:80][keep], codes[:8], 9)
        engine.add(numbers[80:], codes[80:], columns[80:])
        assert engine.delete(numbers[:5]) == 5
        assert_found(engine, engine.search(codes[:8], 99), numbers[5:], codes[5:], codes[:8], 99)
    finally:
        engine.close()


def test_saved_without_items(make, tmp_path):
    engine = make(64)
    engine.save(tmp_path / "saved")
    engine.close()
    engine = open_engine(tmp_path / "saved")
    try:
        assert (engine.bits, engine.count()) == (64, 0)
        engine.add([3], np.zeros((1, 8), np.uint8), pa.table({"label": ["dog"]}))
        assert engine.search(np.ones((1, 8), np.uint8)).numbers.tolist() == [[3]]
    finally:
        engine.close()


def test_what_an_engine_says_of_itself(make):
    engine = make(64)
    assert engine.name in ("exact", "accelerator", "faiss_flat", "faiss_ivf", "clickhouse", "postgres")
    assert engine.exact == (engine.name != "faiss_ivf")
    assert engine.stable == (not engine.name.startswith("faiss"))
    with pytest.raises(ValueError, match="bits: expected a multiple of 8"):
        make(20)
