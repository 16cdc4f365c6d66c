"""What a KDCMH run cannot do with its data, before it begins."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from kdhash.config import ConfigError, weights_problems
from kdhash.data import PairDataset, Protocol

LEAST_UNLABELLED = 50  # of fewer pairs more than a fifth is found among the first ten by chance


def check_pairs(config: ConfigDict, pairs: PairDataset, protocol: Protocol) -> None:
    """Raises ConfigError listing every problem of `config` with these data: one line each."""
    problems = [
        *_network_problems(config, pairs),
        *_feature_problems(config, pairs, protocol),
        *_label_problems(config, pairs, protocol),
        *_size_problems(config, protocol),
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _network_problems(config: ConfigDict, pairs: PairDataset) -> Iterator[str]:
    """Of networks, vocabularies and vectors; those that ready features make needless may be missing."""
    if pairs.image_features is None:
        if not config.images:
            yield (
                f"config.images is empty, and {config.dataset!r} has pictures without ready features; give 'weights' of a "
                "'teacher' and a 'student'"
            )
        for name, spec in config.images.items():
            yield from weights_problems(f"config.images.{name}", spec, config.weights_dir)
    if pairs.texts is None:
        return
    if not config.texts:
        yield (
            f"config.texts is empty, and {config.dataset!r} has texts without ready features; give 'words' and 'vectors', "
            "or 'weights', of a 'teacher' and a 'student'"
        )
    for name, spec in config.texts.items():
        if "weights" in spec:
            yield from weights_problems(f"config.texts.{name}", spec, config.weights_dir)
        elif spec.vectors and not (Path(config.data_dir) / spec.vectors).is_file():
            yield (
                f"config.texts.{name}.vectors: no file {Path(config.data_dir) / spec.vectors}; put the word vectors there, "
                "or give '' to do without"
            )


def _feature_problems(config: ConfigDict, pairs: PairDataset, protocol: Protocol) -> Iterator[str]:
    for kind, features in (("images", pairs.image_features), ("texts", pairs.text_features)):
        if features is None:
            continue
        if not np.isfinite(features).all():
            yield f"config.dataset: features of {kind} of {config.dataset!r} are not all finite; take those rows out"
        elif (features[protocol.train] == features[protocol.train[0]]).all():
            yield (
                f"config.dataset: features of {kind} of {config.dataset!r} are the same in all training rows; "
                "there is nothing to learn from them"
            )


def _label_problems(config: ConfigDict, pairs: PairDataset, protocol: Protocol) -> Iterator[str]:
    if pairs.labels is None:
        if config.validation < LEAST_UNLABELLED:
            yield (
                f"config.validation is {config.validation}; without labels epochs are chosen by recall@10 among these pairs, "
                f"which says nothing of so few: hold out {LEAST_UNLABELLED} or more"
            )
        return
    labelled = np.asarray(pairs.labels.any(axis=1))
    if not labelled[protocol.query].any():
        yield (
            f"config.dataset: none of the {len(protocol.query)} queries of {config.dataset!r} has a label; "
            "give them some, or prepare the data without labels"
        )
    if not labelled[protocol.validation].any():
        yield (
            f"config.validation is {config.validation}; none of these pairs has a label, and epochs are chosen by them: "
            "hold out more, or prepare the data without labels"
        )


def _size_problems(config: ConfigDict, protocol: Protocol) -> Iterator[str]:
    rows = len(protocol.train)
    if config.schedule.batch_size > rows:
        yield (
            f"config.schedule.batch_size is {config.schedule.batch_size}, and there are {rows} training rows; "
            "give as many or fewer"
        )
    for name in config.student.rows:
        form = config.student.forms[name]
        if form.kind == "kdcmh" and form.pairs > rows * (rows - 1):
            yield (
                f"config.student.forms.{name}.pairs is {form.pairs}; of {rows} training rows there are "
                f"{rows * (rows - 1)} pairs of two"
            )
