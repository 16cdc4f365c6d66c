"""Small folders of codes, and a plain model of an index that knows what it should answer."""

import json

import numpy as np
import pyarrow as pa

from kdhash.retrieval.items import write_items

LABELS = ["dog", "cat", "bird", None]


def codes_of_ids(ids, bits=64):
    """Codes that are a function of the id; few bits differ, so that there are ties."""
    rng = [np.random.default_rng(list(name.encode())) for name in ids]
    return np.packbits(np.array([one.random(bits) < 0.1 for one in rng], bool).reshape(-1, bits), axis=1)


def facts_of_ids(ids, version=0):
    """A table of metadata that is a function of id and version."""
    sums = [sum(name.encode()) + version for name in ids]
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "label": pa.array([LABELS[value % 4] for value in sums], pa.string()),
            "width": pa.array([value % 7 * 100 for value in sums], pa.int64()),
            "tags": pa.array([[f"t{value % 3}", "all"] for value in sums], pa.list_(pa.string())),
        }
    )


def make_codes(folder, ids, version=0, *, bits=64, thumbs=False, columns=None, **facts):
    """A folder of codes whose content is a function of the ids."""
    table = facts_of_ids(ids, version)
    pictures = (
        [f"jpeg of {name}".encode() if i % 3 else b"" for i, name in enumerate(ids)] if thumbs else None
    )
    return write_items(
        folder,
        codes_of_ids(ids, bits),
        table if columns is None else table.select(["id", *columns]),
        thumbs=pictures,
        **{"model": "m", **facts},
    )


def brute_force(codes, numbers, query, k, radius=None, keep=None):
    """[(distance, number)] of one query, by distance, then by number."""
    distances = np.bitwise_count(codes ^ query).sum(axis=1)
    found = [
        (int(distance), int(number))
        for i, (distance, number) in enumerate(zip(distances, numbers, strict=True))
        if (radius is None or distance <= radius) and (keep is None or keep[i])
    ]
    return sorted(found)[:k]


def as_pairs(found):
    """Found -> [(distance, number)] of every query, without the padding, which is checked."""
    rows = []
    for distances, numbers, count in zip(*found, strict=True):
        assert (distances[count:] == 65535).all()
        assert (numbers[count:] == -1).all()
        rows.append(list(zip(distances[:count].tolist(), numbers[:count].tolist(), strict=True)))
    return rows


def damages(content):
    """A file's content truncated, longer, and with one bit turned; without what is the same JSON."""
    middle = len(content) // 2
    turned = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    return [
        changed for changed in (content[:-2], content + b"\n", turned) if not _same_json(content, changed)
    ]


def _same_json(one, other):
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False
