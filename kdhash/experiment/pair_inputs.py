"""What a network of a KDCMH run reads of pictures and texts: cached features, words and word vectors."""

import hashlib
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdhash.data import PairDataset, TextFeatures, load_word_vectors
from kdhash.experiment.context import Run, mean_and_deviation
from kdhash.experiment.teacher import cached_views
from kdhash.experiment.workdir import begin, fingerprint, finish, finished
from kdhash.teachers.registry import Teacher, load_teacher
from kdhash.teachers.tower_texts import TowerTexts

ENCODER = "encoder"


class PairInputs(NamedTuple):
    """Of 'teacher' or 'student'. Rows are those of the data set."""

    image: np.ndarray  # [rows, width], standardised
    text: np.ndarray  # [rows, width], of all texts of a row together
    views: np.ndarray  # [training rows, 1 + texts, width]: all texts of a row together, and each alone
    image_seen: np.ndarray  # [rows, width], features as they are, of which similarities are taken
    text_seen: np.ndarray
    network: Teacher | None  # None: the data came with ready features
    encoder: TextFeatures | TowerTexts | None
    identity: dict[str, Any]

    def captions(self, texts: list[str]) -> np.ndarray:
        """Inputs of single texts, [texts, width]."""
        if self.encoder is None:
            raise ValueError("these data came with ready features of texts: other texts cannot be encoded")
        return self.encoder.encode(texts)


def open_pair_inputs(run: Run, name: str) -> PairInputs:
    """Those of config.images.<name> and config.texts.<name>, or the ready features of the data set.

    What is fitted (the vocabulary, mean and deviation) is fitted to the protocol's training rows, and saved in
    workdir/texts/<name> for queries to come.
    """
    pairs: PairDataset = run.dataset
    network, encoder, text_identity = None, None, "ready"
    if pairs.image_features is None:
        network = load_teacher(
            name,
            run.config.images[name].to_dict(),
            weights_dir=run.config.weights_dir,
            image_size=run.config.image_size,
            classes=max(1, len(pairs.label_names)),
            dtype=run.config.features.dtype,
        )
        found, seconds = cached_views(run, network, pairs, ("original",))
        run.seconds["features"] = run.seconds.get("features", 0.0) + seconds
        image_seen = found["original"]["features"]
    else:
        image_seen = np.asarray(pairs.image_features)
    train = run.protocol.train
    if pairs.texts is not None:
        encoder, text_identity = _text_encoder(run, name, pairs.texts)
        # of length 1 and sparse: standardised, heads learn faster and the training pairs by heart
        text = text_seen = encoder.encode([" ".join(each) for each in pairs.texts])
        views = _views(encoder, [pairs.texts[row] for row in train])
    else:
        text_seen = np.asarray(pairs.text_features)
        text = _standardised(text_seen, train)
        views = text[train][:, None]
    return PairInputs(
        image=_standardised(image_seen, train),
        text=text,
        views=views,
        image_seen=image_seen,
        text_seen=text_seen,
        network=network,
        encoder=encoder,
        identity={"image": network.identity if network else "ready", "text": text_identity},
    )


def _standardised(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    mean, deviation = mean_and_deviation(features[train])
    return (features - mean) / deviation


def _views(encoder: TextFeatures | TowerTexts, rows: list[tuple[str, ...]]) -> np.ndarray:
    """[rows, 1 + texts, width]: all texts of a row together, and each alone. Rows with fewer texts repeat theirs."""
    most = max(len(texts) for texts in rows)
    texts = [[" ".join(each), *(each[i % len(each)] for i in range(most))] for each in rows]
    return np.stack([encoder.encode(column) for column in zip(*texts, strict=True)], axis=1)


def _text_encoder(
    run: Run, name: str, texts: tuple[tuple[str, ...], ...]
) -> tuple[TextFeatures | TowerTexts, str]:
    """A frozen text tower; or words, fitted to the training texts or read from workdir/texts/<name>. And a fingerprint of
    all it depends on."""
    spec = run.config.texts[name]
    if "weights" in spec:
        tower = TowerTexts(name, spec.to_dict(), weights_dir=run.config.weights_dir)
        return tower, tower.identity
    vectors = load_word_vectors(Path(run.config.data_dir) / spec.vectors) if spec.vectors else None
    digest = hashlib.sha256(vectors.vectors.tobytes()).hexdigest() if vectors else ""
    depends = fingerprint(
        {"dataset": run.dataset.fingerprint, "protocol": run.protocol.checksum, "vectors": digest}, spec
    )
    folder = run.workdir / "texts" / name
    if finished(folder, depends) is None:
        begin(folder, depends)
        shutil.rmtree(folder / ENCODER, ignore_errors=True)  # of a start that was stopped
        encoder = TextFeatures.fit(
            [text for row in run.protocol.train for text in texts[row]],
            kinds=("words", "vectors") if vectors else ("words",),
            size=spec.words,
            vectors=vectors,
        )
        encoder.save(folder / ENCODER)
        finish(folder, depends, {"width": encoder.encode([""]).shape[1]})
    return TextFeatures.load(folder / ENCODER), depends
