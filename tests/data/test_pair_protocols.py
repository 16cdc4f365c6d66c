"""Protocols of image-text pairs."""

import numpy as np
import pytest

from kdhash.data import PairDataset, load_pairs, load_protocol, make_pair_protocol, save_protocol


def pairs(rows, labels=2, splits=None, seed=0):
    hot = np.random.default_rng(seed).random((rows, labels)) < 0.5
    return PairDataset(
        name="made",
        ids=[f"n{row}" for row in range(rows)],
        texts=None,
        images=None,
        image_features=np.zeros((rows, 1), np.float32),
        text_features=np.zeros((rows, 1), np.float32),
        labels=hot,
        label_names=tuple(map(str, range(labels))),
        splits=splits or {"all": range(rows)},
        fingerprint="f",
    )


def sizes(protocol):
    return [len(getattr(protocol, part)) for part in ("query", "database", "train", "validation")]


def test_pairs():
    data = pairs(30, splits={"train": range(15), "database": range(15, 20), "query": range(20, 30)})
    protocol = make_pair_protocol("pairs", data, seed=3, train=8, validation=4)
    assert protocol.query.tolist() == list(range(20, 30))
    assert protocol.database.tolist() == list(range(20))
    assert sizes(protocol) == [10, 20, 8, 4]
    assert (np.diff(protocol.train) > 0).all()
    assert not set(protocol.train) & set(protocol.validation)
    assert protocol.ks == (50, 0)
    assert protocol.checksum == make_pair_protocol("pairs", data, seed=3, train=8, validation=4).checksum
    assert protocol.checksum != make_pair_protocol("pairs", data, seed=4, train=8, validation=4).checksum
    more = make_pair_protocol("pairs", data, seed=3, train=8, validation=12)
    assert (more.train == protocol.train).all()
    assert sizes(make_pair_protocol("pairs", data, seed=3)) == [10, 20, 20, 0]
    assert sizes(make_pair_protocol("pairs", data, seed=3, validation=5)) == [10, 20, 15, 5]


def test_saving(tmp_path):
    data = pairs(10, splits={"train": range(6), "test": range(6, 10)})
    protocol = make_pair_protocol("pairs", data, seed=0, validation=2)
    save_protocol(protocol, tmp_path / "p")
    again = load_protocol(tmp_path / "p", data)
    assert again.checksum == protocol.checksum
    assert again.ks == (50, 0)


@pytest.mark.parametrize(
    ("splits", "options", "message"),
    [
        ({"train": range(10)}, {}, r"needs one split 'query' or 'test'; 'made' has \['train'\]"),
        ({"test": range(5), "query": range(5, 10)}, {}, "needs one split"),
        ({"query": range(10)}, {}, "gives 10 query and 0 database rows"),
        (
            {"query": range(4), "train": range(4, 10)},
            {"train": 5, "validation": 2},
            "train is 5 and validation is 2; the database of 'made' has 6 rows",
        ),
        (
            {"query": range(4), "train": range(4, 10)},
            {"validation": 9},
            r"train is 0 \(all that is not validation\) and validation is 9; .* training needs one at least",
        ),
        ({"query": range(4), "train": range(4, 10)}, {"validation": 6}, "training needs one at least"),
        ({"query": range(4), "train": range(4, 10)}, {"train": -1}, "neither may be negative"),
    ],
)
def test_pairs_that_cannot_be(splits, options, message):
    with pytest.raises(ValueError, match=message):
        make_pair_protocol("pairs", pairs(10, splits=splits), seed=0, **options)


def test_mirflickr25k():
    data = pairs(20_015, 24)
    protocol = make_pair_protocol("mirflickr25k", data, seed=0, validation=1000)
    assert sizes(protocol) == [2000, 18_015, 5000, 1000]
    assert not set(protocol.query) & set(protocol.database)
    assert len(make_pair_protocol("mirflickr25k", data, seed=0, train=10_000).train) == 10_000
    with pytest.warns(UserWarning, match="has 8,000 pairs, published results have 20,015"):
        make_pair_protocol("mirflickr25k", pairs(8000, 24), seed=0)
    with pytest.raises(ValueError, match=r"train is 0 \(the protocol's own number\) and validation is 17000"):
        make_pair_protocol("mirflickr25k", data, seed=0, validation=17_000)
    with pytest.raises(ValueError, match="defined on MIRFLICKR-25K"):
        make_pair_protocol("mirflickr25k", pairs(8000, 12), seed=0)


def test_nuswide10():
    data = pairs(9000, 10)
    protocol = make_pair_protocol("nuswide10", data, seed=0, validation=300)
    assert sizes(protocol) == [2000, 7000, 5000, 300]
    assert not set(protocol.train) & set(protocol.validation)
    assert (data.labels[protocol.query].sum(0) >= 200).all()
    assert (data.labels[protocol.train].sum(0) >= 500).all()
    assert sizes(make_pair_protocol("nuswide10", data, seed=0, train=1000))[2] == 1000
    with pytest.raises(ValueError, match="a multiple of 10"):
        make_pair_protocol("nuswide10", data, seed=0, train=1001)
    with pytest.raises(ValueError, match="10 most frequent labels; 'made' has 9 labels"):
        make_pair_protocol("nuswide10", pairs(9000, 9), seed=0)
    data.labels[:, 3] = False
    data.labels[:7, 3] = True
    with pytest.raises(ValueError, match=r"label '3' of 'made' has \d free rows to take 200 from"):
        make_pair_protocol("nuswide10", data, seed=0)
    with pytest.raises(
        ValueError, match="unknown protocol 'coco' of pairs; known: pairs, mirflickr25k, nuswide10"
    ):
        make_pair_protocol("coco", data, seed=0)


def test_flickr8k(shared):
    protocol = make_pair_protocol(
        "pairs", load_pairs("flickr8k_128", shared / "data"), seed=0, validation=500
    )
    assert sizes(protocol) == [1000, 6091, 5591, 500]
    # the rows are the same for ever
    assert protocol.checksum == "05e7b71cda87d10116fac630f4784c638eb04746d8b5692c961aacd92e74dea6"
