"""Protocols of image-text pairs: which rows are queries, database, training and validation rows."""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Int64

from kdhash.data.pairs import PairDataset
from kdhash.data.protocols import Protocol, check_overlap
from kdhash.data.stratify import hash_order

PAIR_NAMES = ("pairs", "mirflickr25k", "nuswide10")
KS = (50, 0)
MIR_ROWS, MIR_LABELS, MIR_QUERY, MIR_TRAIN = 20_015, 24, 2_000, 5_000
NUS_LABELS, NUS_QUERY, NUS_TRAIN = 10, 200, 500  # queries and training rows are those of a label


def make_pair_protocol(
    name: str, dataset: PairDataset, *, seed: int, train: int = 0, validation: int = 0
) -> Protocol:
    """The protocol `name` on `dataset`; mAP@50 and mAP over all belong to each:

    | name         | query                     | database        | train                                  |
    |--------------|---------------------------|-----------------|----------------------------------------|
    | pairs        | split 'query', or 'test'  | everything else | `train` rows (0: all but validation)   |
    | mirflickr25k | 2,000 of all rows         | everything else | `train` rows (0: 5,000)                |
    | nuswide10    | 200 a label of all rows   | everything else | `train` rows, as many a label (0: 500) |

    Training and `validation` rows are database rows, and disjoint; they are drawn by a hash of seed and id, so that
    more validation rows leave the training rows as they are, unless the database is used up. For nuswide10 the labels take
    their rows in turn, in the order of columns, each among those of its rows that no label before it has taken
    (as DJSRH draws them), so that the numbers add up: 2,000 queries, 5,000 training rows. mirflickr25k is drawn from all
    rows alike, whatever their labels. The splits of a data set count only for 'pairs'.
    Raises ValueError for an unknown name, a data set that is not what the name says, a missing query split, and numbers
    of rows that cannot be had.
    """
    if name not in PAIR_NAMES:
        raise ValueError(f"unknown protocol {name!r} of pairs; known: {', '.join(PAIR_NAMES)}")
    if train < 0 or validation < 0:
        raise ValueError(f"train is {train} and validation is {validation}; neither may be negative")
    usual = "all that is not validation" if name == "pairs" else "the protocol's own number"
    asked = f"train is {train}" if train else f"train is 0 ({usual})"
    everything = np.arange(len(dataset), dtype=np.int64)
    ids, salt = dataset.ids, f"{name}/{seed}"
    if name == "pairs":
        query = np.asarray(_query_split(dataset), dtype=np.int64)
    elif name == "mirflickr25k":
        labels = 0 if dataset.labels is None else dataset.labels.shape[1]
        if labels != MIR_LABELS or len(dataset) <= MIR_QUERY + MIR_TRAIN:
            raise ValueError(
                f"protocol {name!r} is defined on MIRFLICKR-25K ({MIR_ROWS:,} pairs, {MIR_LABELS} labels); "
                f"{dataset.name!r} has {len(dataset):,} and {labels}; use 'pairs' for other data"
            )
        if len(dataset) != MIR_ROWS:
            warnings.warn(
                f"{dataset.name!r} has {len(dataset):,} pairs, published results have {MIR_ROWS:,}",
                stacklevel=2,
            )
        query = np.sort(hash_order(ids, f"{salt}/query")[:MIR_QUERY])
        train = train or MIR_TRAIN
    else:
        if dataset.labels is None or dataset.labels.shape[1] != NUS_LABELS:
            labels = 0 if dataset.labels is None else dataset.labels.shape[1]
            raise ValueError(
                f"protocol {name!r} is defined on NUS-WIDE with its {NUS_LABELS} most frequent labels; {dataset.name!r} has "
                f"{labels} labels; use 'pairs' for other data"
            )
        if train % NUS_LABELS:
            raise ValueError(
                f"train is {train}; {name!r} draws as many rows a label: a multiple of {NUS_LABELS}"
            )
        query = _pick_in_turn(dataset, everything, NUS_QUERY, f"{salt}/query")
    database = np.setdiff1d(everything, query)
    if not len(query) or not len(database):
        raise ValueError(f"{dataset.name!r} gives {len(query)} query and {len(database)} database rows")

    shuffled = database[hash_order([ids[row] for row in database], f"{salt}/train")]
    if name == "nuswide10":
        chosen = _pick_in_turn(dataset, database, train // NUS_LABELS or NUS_TRAIN, f"{salt}/train")
        shuffled = np.concatenate([chosen, shuffled[~np.isin(shuffled, chosen)]])
        train = len(chosen)
    train = train or len(database) - validation
    if train < 1 or train + validation > len(database):
        raise ValueError(
            f"{asked} and validation is {validation}; the database of {dataset.name!r} has {len(database)} rows for both, "
            "and training needs one at least: take fewer"
        )
    protocol = Protocol(
        name,
        query,
        database,
        np.sort(shuffled[:train]),
        np.sort(shuffled[len(shuffled) - validation :]),
        KS,
        seed,
        dataset.fingerprint,
    )
    rows: Any = dataset  # ids, name and length are all that is asked of it
    check_overlap(protocol, rows)
    return protocol


def _query_split(dataset: PairDataset) -> range:
    there = [split for split in ("query", "test") if split in dataset.splits]
    if len(there) != 1:
        raise ValueError(
            f"protocol 'pairs' needs one split 'query' or 'test'; {dataset.name!r} has {list(dataset.splits)}: "
            "give 'split' in the manifest that it is prepared from"
        )
    return dataset.splits[there[0]]


def _pick_in_turn(
    dataset: PairDataset, rows: Int64[np.ndarray, " candidates"], per_label: int, salt: str
) -> Int64[np.ndarray, " picked"]:
    """`per_label` of the rows of every label that no label before it has taken, ascending."""
    assert dataset.labels is not None
    shuffled = rows[hash_order([dataset.ids[row] for row in rows], salt)]
    free = np.ones(len(shuffled), bool)
    for label, label_name in enumerate(dataset.label_names):
        places = np.flatnonzero(free & dataset.labels[shuffled, label])[:per_label]
        if len(places) < per_label:
            raise ValueError(
                f"label {label_name!r} of {dataset.name!r} has {len(places)} free rows to take {per_label} from"
            )
        free[places] = False
    return np.sort(shuffled[~free])
