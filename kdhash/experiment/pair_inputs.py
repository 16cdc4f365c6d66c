"""What a network of a KDCMH run reads of pictures and texts: cached features, words and word vectors."""

import hashlib
import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

import kdhash
from kdhash.data import PairDataset, TextFeatures, load_word_vectors
from kdhash.experiment.context import Run, keep_inputs, mean_and_deviation
from kdhash.experiment.teacher import cached_views
from kdhash.experiment.workdir import begin, fingerprint, finish, finished
from kdhash.processes import appear, by_first
from kdhash.teachers.registry import Teacher, load_teacher
from kdhash.teachers.tower_texts import TowerTexts

ENCODER = "encoder"
MOST_TEXTS = 8  # of a row, each alone; a row of a hundred must not cost all others as many


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

    What is fitted (the vocabulary, means and deviations) is fitted to the protocol's training rows, and kept in
    workdir/inputs/<name> for queries to come.
    """
    pairs: PairDataset = run.dataset
    network, encoder, text_identity = None, None, "ready"
    if pairs.image_features is None:
        network = load_teacher(
            name,
            run.config.images[name].to_dict(),
            weights_dir=run.config.weights_dir,
            image_size=run.config.image_size,
            classes=None,
            dtype=run.config.features.dtype,
            field=f"config.images.{name}",
        )
        found, seconds = cached_views(run, network, pairs, ("original",))
        run.seconds["features"] = run.seconds.get("features", 0.0) + seconds
        image_seen = found["original"]["features"]
    else:
        image_seen = np.asarray(pairs.image_features)
    train = run.protocol.train
    mean, deviation = mean_and_deviation(image_seen[train])
    scales = {"image_mean": mean, "image_deviation": deviation}
    if pairs.texts is not None:
        encoder, text_identity = _text_encoder(run, name, pairs.texts)
        # not standardised: heads that read scaled words soon know the training pairs by heart, and score less
        text = text_seen = encoder.encode([" ".join(each) for each in pairs.texts])
        views = _views(encoder, [pairs.texts[row] for row in train])
    else:
        text_seen = np.asarray(pairs.text_features)
        text_mean, text_deviation = mean_and_deviation(text_seen[train])
        scales |= {"text_mean": text_mean, "text_deviation": text_deviation}
        text = (text_seen - text_mean) / text_deviation
        views = text[train][:, None]
    identity = {"image": network.identity if network else "ready", "text": text_identity}
    keep_inputs(run, name, scales, identity)
    return PairInputs(
        image=(image_seen - mean) / deviation,
        text=text,
        views=views,
        image_seen=image_seen,
        text_seen=text_seen,
        network=network,
        encoder=encoder,
        identity=identity,
    )


def _views(encoder: TextFeatures | TowerTexts, rows: list[tuple[str, ...]]) -> np.ndarray:
    """[rows, 1 + texts, width]: all texts of a row together, and each of the first eight alone. Rows with fewer texts than
    others repeat theirs; where no row has two, all together is each alone."""
    most = min(MOST_TEXTS, max(len(texts) for texts in rows))
    alone = range(most) if most > 1 else range(0)
    texts = [[" ".join(each), *(each[i % len(each)] for i in alone)] for each in rows]
    return np.stack([encoder.encode(column) for column in zip(*texts, strict=True)], axis=1)


def _text_encoder(
    run: Run, name: str, texts: tuple[tuple[str, ...], ...]
) -> tuple[TextFeatures | TowerTexts, str]:
    """A frozen text tower; or words, fitted to the training texts or read from workdir/inputs/<name>/texts. And a fingerprint
    of all it depends on."""
    spec = run.config.texts[name]
    if "weights" in spec:
        tower = TowerTexts(name, spec.to_dict(), weights_dir=run.config.weights_dir)
        return tower, tower.identity
    vectors = load_word_vectors(Path(run.config.data_dir) / spec.vectors) if spec.vectors else None
    digest = hashlib.sha256(vectors.vectors.tobytes()).hexdigest() if vectors else ""
    depends = fingerprint(
        {"dataset": run.dataset.fingerprint, "protocol": run.protocol.checksum, "vectors": digest}, spec
    )
    folder = run.workdir / "inputs" / name / "texts"
    of_version = fingerprint(kdhash.__version__, depends)

    def work() -> dict[str, Any]:
        notes = finished(folder, of_version)
        if notes is not None:
            return notes
        begin(folder, of_version)
        kinds: list[Literal["words", "vectors"]] = ["words"] if spec.words else []
        kinds += ["vectors"] if vectors else []
        shutil.rmtree(folder / ENCODER, ignore_errors=True)  # of a start that was stopped
        encoder = TextFeatures.fit(
            [text for row in run.protocol.train for text in texts[row]],
            kinds=kinds,
            size=max(1, spec.words),
            vectors=vectors,
        )
        encoder.save(folder / ENCODER)
        return finish(folder, of_version, {"width": encoder.encode([""]).shape[1]})

    by_first(work)
    return TextFeatures.load(appear(folder / ENCODER)), depends
