import itertools

import numpy as np
import pytest

from kdhash.retrieval import near_duplicates as module
from kdhash.retrieval import pair_join
from kdhash.retrieval.near_duplicates import near_groups, near_pairs
from kdhash.retrieval.pair_join import join_pairs

METHODS = ["auto", "all", "buckets", "scan"]


def make_codes(rng, n, bits, kind="families"):
    """Packed codes: uniform, families (originals with copies of 0 to 3 flipped bits) or few (5 different codes)."""
    if kind == "uniform":
        return rng.integers(0, 256, (n, bits // 8), np.uint8)
    if kind == "few":
        return rng.integers(0, 256, (5, bits // 8), np.uint8)[rng.integers(0, 5, n)]
    originals = rng.random((max(1, n // 4), bits)) < 0.5
    codes = originals[rng.integers(0, len(originals), n)]
    for code in codes:
        code[rng.choice(bits, rng.integers(0, 4), replace=False)] ^= True
    return np.packbits(codes, axis=1)


def reference(codes, radius, wanted=None, new=None):
    """(pairs {(first, second): distance}, groups as sorted lists, the largest first) by comparing all with all."""
    items = range(len(codes)) if wanted is None else np.flatnonzero(wanted).tolist()
    distances = np.bitwise_count(codes[:, None] ^ codes[None]).sum(axis=2)
    pairs = {
        (a, b): distances[a, b]
        for a, b in itertools.combinations(items, 2)
        if distances[a, b] <= radius and (new is None or new[a] or new[b])
    }
    group = {item: {item} for item in items}
    for a, b in pairs:
        if group[a] is not group[b]:
            group[a] |= group[b]
            for item in group[b]:
                group[item] = group[a]
    groups = {tuple(sorted(members)) for members in group.values() if len(members) > 1}
    return pairs, sorted(groups, key=lambda members: (-len(members), members[0]))


def check(blocks, radius, skip=(), new=None, methods=METHODS):
    codes = np.concatenate(blocks)
    wanted = None
    if skip:
        wanted = np.concatenate(
            [np.ones(len(b), bool) if s is None else ~s for b, s in zip(blocks, skip, strict=True)]
        )
    pairs, groups = reference(codes, radius, wanted, new)
    for method in methods:
        found = list(near_pairs(blocks, radius, skip=skip, new=new, method=method))
        assert sum(len(batch.first) for batch in found) == len(pairs), method
        listed = [zip(*(column.tolist() for column in batch), strict=True) for batch in found]
        assert {(a, b): distance for batch in listed for a, b, distance in batch} == pairs, method
        offsets, positions, distances = near_groups(blocks, radius, skip=skip, new=new, method=method)
        members = np.split(positions, offsets[1:-1]) if len(positions) else []
        assert [tuple(part.tolist()) for part in members] == groups, method
        firsts = np.repeat(positions[offsets[:-1]], np.diff(offsets))
        expected = np.bitwise_count(codes[positions] ^ codes[firsts]).sum(axis=1)
        np.testing.assert_array_equal(distances, expected)
    return pairs, groups


@pytest.mark.parametrize("bits", [16, 24, 64, 128, 256])
def test_all_methods_give_the_same(backend, bits):
    codes = make_codes(np.random.default_rng(bits), 150, bits)
    pairs, groups = check(np.split(codes, [40, 40, 41]), 3)
    assert 0 in pairs.values()
    assert 3 in pairs.values()
    assert len(groups) > 1


@pytest.mark.parametrize("radius", [0, 1, 2, 7, 15])
@pytest.mark.parametrize("kind", ["uniform", "families", "few"])
def test_radii_and_kinds_of_codes(backend, radius, kind):
    check([make_codes(np.random.default_rng(radius), 120, 16, kind)], radius)


def test_a_radius_of_all_bits_joins_everything(backend):
    codes = make_codes(np.random.default_rng(0), 50, 8, "uniform")
    for radius in (8, 20):
        pairs, groups = check([codes], radius, methods=["auto", "all", "scan"])
        assert len(pairs) == 50 * 49 // 2
        assert groups == [tuple(range(50))]
    with pytest.raises(ValueError, match="8 bits cannot be cut into radius \\+ 1 = 9 chunks"):
        list(near_pairs([codes], 8, method="buckets"))


def test_a_chain_is_one_group_and_says_how_far_it_reaches(backend):
    codes = np.packbits(np.tri(13, 64, -1, bool)[::3], axis=1)  # 0, 3, 6, 9 and 12 ones
    _, groups = check([codes], 3)
    assert groups == [(0, 1, 2, 3, 4)]
    assert near_groups([codes], 3).distances.tolist() == [0, 3, 6, 9, 12]


def test_skipped_items_take_no_part(backend):
    rng = np.random.default_rng(0)
    blocks = np.split(make_codes(rng, 160, 64), [70])
    check(blocks, 3, skip=[rng.random(70) < 0.5, None])
    check(blocks, 3, skip=[np.ones(70, bool), np.ones(90, bool)])


@pytest.mark.parametrize("kind", ["families", "few"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_only_pairs_with_new_items(backend, kind, share):
    rng = np.random.default_rng(7)
    blocks = np.split(make_codes(rng, 130, 32, kind), [100])
    skip = [rng.random(100) < 0.2, rng.random(30) < 0.2]
    check(blocks, 3, skip=skip, new=rng.random(130) < share)
    check(blocks, 3, new=np.arange(130) == 129)


def test_large_runs_tiles_and_full_batches(backend, monkeypatch):
    # 8-bit codes would be few; 16 bits fill buckets of hundreds, more than one group, and batches overflow
    monkeypatch.setattr(pair_join, "_BATCH", 9000)
    monkeypatch.setattr(pair_join, "_STRIP", 130)
    monkeypatch.setattr(module, "_BATCH", 100)
    rng = np.random.default_rng(0)
    words = rng.permutation(2**16)[:3000].astype(np.uint64)[None]
    distances = np.triu(np.bitwise_count(words[0][:, None] ^ words[0]) <= 4, 1)
    expected = np.stack(np.nonzero(distances), axis=1)
    for method in ("all", "buckets"):
        batches = list(join_pairs(words, 16, 4, method))
        assert len(batches) > 3
        found = np.concatenate([np.stack(batch[:2], axis=1) for batch in batches])
        np.testing.assert_array_equal(found[np.lexsort(found.T[::-1])], expected)
    check([make_codes(rng, 100, 16, "few")], 2)


def test_many_identical_items_need_no_pairs_for_groups(backend):
    codes = np.zeros((50_000, 8), np.uint8)
    codes[123] = 255
    groups = near_groups([codes], 3)
    assert groups.offsets.tolist() == [0, 49_999]
    assert 123 not in groups.positions
    # 1.25e9 pairs, of which only the first ones are made
    first = next(near_pairs([codes], 3))
    assert 0 < len(first.first) <= module._BATCH
    new = np.arange(50_000) == 49_999
    assert sum(len(batch.first) for batch in near_pairs([codes], 3, new=new)) == 49_998


def test_buckets_are_chosen_where_they_pay(monkeypatch):
    monkeypatch.setenv("KDHASH_HAMMING", "numba")
    rng = np.random.default_rng(0)
    uniform = rng.integers(0, 2**63, (1, 300_000)).astype(np.uint64)
    assert pair_join._buckets_pay(uniform, 64, 3)
    assert not pair_join._buckets_pay(uniform[:, :2000], 64, 3)
    assert not pair_join._buckets_pay(uniform, 64, 30)  # chunks of two bits
    # one chunk that varies, three that do not: everything is in one bucket
    assert not pair_join._buckets_pay(uniform & np.uint64(0xFFFF), 64, 3)


def test_few_new_items_are_scanned_for(monkeypatch):
    codes = np.zeros((100, 8), np.uint8)
    few = np.arange(100) == 5
    assert module._prepare([codes], 3, (), few, "auto")[2] == "scan"
    assert module._prepare([codes], 3, (), None, "auto")[2] == "auto"
    many = np.ones(100_000, bool)
    assert module._prepare([np.zeros((100_000, 8), np.uint8)], 3, (), many, "auto")[2] == "auto"


def test_nothing_to_compare(backend):
    none, one = np.zeros((0, 8), np.uint8), np.zeros((1, 8), np.uint8)
    for blocks in ([], [none], [one], [none, one]):
        for method in METHODS:
            assert list(near_pairs(blocks, 3, method=method)) == []
            groups = near_groups(blocks, 3, method=method)
            assert groups.offsets.tolist() == [0]
            assert len(groups.positions) == len(groups.distances) == 0


@pytest.mark.parametrize(
    ("blocks", "radius", "settings", "message"),
    [
        ([np.zeros((2, 8))], 3, {}, "block 0: expected packed codes"),
        ([np.zeros((2, 8), np.uint8), np.zeros((2, 4), np.uint8)], 3, {}, "block 1 has codes of 32 bits, not of 64"),
        ([np.zeros((2, 8), np.uint8)], -1, {}, "radius: expected a number of bits"),
        ([np.zeros((2, 8), np.uint8)], 3, {"method": "guess"}, "method: expected one of auto, all, buckets, scan"),
        ([np.zeros((2, 8), np.uint8)], 3, {"new": np.zeros(3, bool)}, r"new: expected bool \[2\], got bool \(3,\)"),
        ([np.zeros((2, 8), np.uint8)], 3, {"skip": [None, None]}, "got 2 for 1 blocks"),
    ],
)  # fmt: skip
def test_errors(blocks, radius, settings, message):
    for find in (near_groups, near_pairs):
        with pytest.raises(ValueError, match=message):
            list(find(blocks, radius, **settings))
