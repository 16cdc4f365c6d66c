"""Texts as features: words, vocabularies, word vectors, and an encoder that can be saved for later queries."""

import json
import os
import re
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32

# words of English that say little of what is to be seen; 'no' and numbers are left in
_STOP_WORDS = """
a about after all also an and another any are as at be been being but by can could did do does each
for from had has have he her here hers herself him himself his how i if in into is it it's its
itself just may me might more most my myself nor not of off on one's or other our ours over own she
should so some such than that the their theirs them themselves then there these they this those
through to too under until upon us very was we were what when where which while who whom whose why
will with would you your yours
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
FORMAT = 1
Kind = Literal["words", "vectors"]
Weighting = Literal["binary", "log-idf"]
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def tokenize(text: str) -> list[str]:
    """The words of `text` in order: lower-case letters and digits of any script, apostrophes inside a word."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower().replace("\u2019", "'"))


@dataclass(frozen=True)
class Vocabulary:
    """Words by falling count, equal counts alphabetically; a word's position is its column."""

    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def columns(self) -> dict[str, int]:
        return {word: column for column, word in enumerate(self.words)}


def fit_vocabulary(
    texts: Sequence[str], *, size: int, min_count: int = 1, stop_words: Collection[str] = STOP_WORDS
) -> Vocabulary:
    """The `size` most frequent words of `texts` (training texts only) that occur `min_count` times or more.

    Fewer where there are no more. Raises ValueError for a size or min_count below 1, and where no word is left.
    """
    if size < 1 or min_count < 1:
        raise ValueError(f"size is {size} and min_count is {min_count}; both must be at least 1")
    counts = Counter(word for text in texts for word in tokenize(text) if word not in stop_words)
    frequent = sorted((-count, word) for word, count in counts.items() if count >= min_count)
    if not frequent:
        raise ValueError(
            f"no word of {len(texts)} texts occurs {min_count} times; give more texts or a smaller min_count"
        )
    return Vocabulary(tuple(word for _, word in frequent[:size]))


def count_words(texts: Sequence[str], vocabulary: Vocabulary) -> Float32[np.ndarray, "n v"]:
    """How often each word of the vocabulary occurs in each text. The captions of a row are joined by the caller."""
    counts = np.zeros((len(texts), len(vocabulary)), np.float32)
    for row, text in enumerate(texts):
        for word, count in Counter(tokenize(text)).items():
            column = vocabulary.columns.get(word)
            if column is not None:
                counts[row, column] = count
    return counts


@dataclass(frozen=True, eq=False)
class WordVectors:
    """words: in the file's order.  vectors: one row a word. Raises ValueError where they do not fit."""

    words: tuple[str, ...]
    vectors: Float32[np.ndarray, "words d"]

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.words) != len(self.vectors):
            raise ValueError(f"{len(self.words)} words and vectors of shape {self.vectors.shape}")

    @cached_property
    def rows(self) -> dict[str, int]:
        return {word: row for row, word in reversed(list(enumerate(self.words)))}  # the first of a word twice

    def restricted(self, words: Collection[str]) -> "WordVectors":
        """Only the vectors of `words`, in this order here."""
        kept = [row for row, word in enumerate(self.words) if word in words and self.rows[word] == row]
        return WordVectors(tuple(self.words[row] for row in kept), self.vectors[kept])


def load_word_vectors(path: str | Path, *, words: Collection[str] | None = None) -> WordVectors:
    """Word vectors from an .npz with 'words' and 'vectors', or from a text file of GloVe or word2vec.

    A text file has a line a word: the word, then its numbers, divided by spaces; it is read as a stream, and with
    `words` only those are kept. A first line of two whole numbers (word2vec's) is passed over. Of a word twice the
    first counts. Raises FileNotFoundError, and ValueError naming file and line (or key) for a line of another width,
    what is no number, and values that are not finite.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no word vectors at {file}; give an .npz or a GloVe .txt")
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            if not {"words", "vectors"} <= set(arrays.files):
                raise ValueError(f"{file} has {', '.join(arrays.files)}; 'words' and 'vectors' are needed")
            names, vectors = tuple(map(str, arrays["words"].tolist())), arrays["vectors"].astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(vectors.reshape(len(vectors), -1)).all(axis=1))
        if len(bad):
            raise ValueError(f"{file}: 'vectors' of {names[bad[0]]!r} has values that are not finite")
        loaded = WordVectors(names, vectors)
        return loaded if words is None else loaded.restricted(words)
    kept: dict[str, Float32[np.ndarray, " d"]] = {}
    width = 0
    for line, word, vector in _glove_lines(file):
        width = width or len(vector)
        if len(vector) != width:
            raise ValueError(
                f"{file} line {line}: {len(vector)} numbers for {word!r}; the first line has {width}"
            )
        if word in kept or (words is not None and word not in words):
            continue
        try:
            kept[word] = np.array(vector, dtype=np.float32)
        except ValueError as error:
            raise ValueError(f"{file} line {line}: {error}") from error
        if not np.isfinite(kept[word]).all():
            raise ValueError(f"{file} line {line}: values that are not finite for {word!r}")
    if not width:
        raise ValueError(f"{file} holds no word vectors")
    vectors = np.stack(list(kept.values())) if kept else np.zeros((0, width), np.float32)
    return WordVectors(tuple(kept), vectors)


def _glove_lines(file: Path) -> Iterator[tuple[int, str, list[str]]]:
    """(line number, word, numbers as text) of each line."""
    width = 0
    with file.open(encoding="utf-8", errors="replace", newline="\n") as stream:
        for number, line in enumerate(stream, 1):
            parts = line.rstrip("\r\n ").split(" ")
            if number == 1 and len(parts) == 2 and all(part.isdigit() for part in parts):
                continue
            # a few words of the largest GloVe files have spaces in them, as '. . .'
            start = len(parts) - width if width and len(parts) > width + 1 and not _is_number(parts[1]) else 1
            width = width or len(parts) - 1
            if len(parts) < 2:
                raise ValueError(f"{file} line {number}: {line[:40]!r} is no word with its numbers")
            yield number, " ".join(parts[:start]), parts[start:]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def average_vectors(
    texts: Sequence[str], vectors: WordVectors, *, stop_words: Collection[str] = ()
) -> Float32[np.ndarray, "n d"]:
    """The mean vector of the known words of each text, as often as they occur; zeros where none is known."""
    means = np.zeros((len(texts), vectors.vectors.shape[1]), np.float32)
    for row, text in enumerate(texts):
        known = [
            vectors.rows[word] for word in tokenize(text) if word in vectors.rows and word not in stop_words
        ]
        if known:
            means[row] = vectors.vectors[known].mean(axis=0)
    return means


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """An encoder of texts, fitted on training texts: `TextFeatures.fit(...)`, then `encode`, `save`, `load`.

    'words': presence of the vocabulary's words ('binary'), or log(1 + count) times idf ('log-idf'), where idf is
    log((1 + n) / (1 + number of training texts with the word)) + 1.  'vectors': the mean word vector.
    Each part has unit norm (or is zero where no word is known), and they stand side by side in the order of `kinds`.
    """

    kinds: tuple[Kind, ...]
    weighting: Weighting
    stop_words: frozenset[str]
    vocabulary: Vocabulary | None
    idf: Float32[np.ndarray, " v"] | None
    vectors: WordVectors | None

    @property
    def width(self) -> int:
        sizes = {
            "words": len(self.vocabulary) if self.vocabulary else 0,
            "vectors": self.vectors.vectors.shape[1] if self.vectors else 0,
        }
        return sum(sizes[kind] for kind in self.kinds)

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        *,
        kinds: Sequence[Kind] = ("words",),
        size: int = 1000,
        min_count: int = 1,
        weighting: Weighting = "log-idf",
        vectors: WordVectors | None = None,
        all_vectors: bool = False,
        stop_words: Collection[str] = STOP_WORDS,
    ) -> "TextFeatures":
        """The encoder of training `texts`, one a row.

        size, min_count: of the vocabulary.  vectors: needed for the kind 'vectors'; only those of words in `texts` are
        kept, or all with `all_vectors` (a query may then use words that no training text has).  stop_words: left out of
        both kinds. Raises ValueError for unknown kinds and weightings, missing vectors, and where no word is left.
        """
        if not kinds or len(set(kinds)) != len(kinds) or not set(kinds) <= {"words", "vectors"}:
            raise ValueError(f"kinds is {tuple(kinds)}; give 'words', 'vectors' or both")
        if weighting not in ("binary", "log-idf"):
            raise ValueError(f"weighting is {weighting!r}; give 'binary' or 'log-idf'")
        if "vectors" in kinds and vectors is None:
            raise ValueError("the kind 'vectors' needs vectors; see load_word_vectors")
        vocabulary = idf = kept = None
        if "words" in kinds:
            vocabulary = fit_vocabulary(texts, size=size, min_count=min_count, stop_words=stop_words)
            frequency: Counter[str] = Counter(word for text in texts for word in set(tokenize(text)))
            having = np.array([frequency[word] for word in vocabulary.words], np.float64)
            idf = (np.log((1 + len(texts)) / (1 + having)) + 1).astype(np.float32)
        if "vectors" in kinds and vectors is not None:
            kept = (
                vectors if all_vectors else vectors.restricted({w for text in texts for w in tokenize(text)})
            )
            if not len(kept.words):
                raise ValueError(f"none of the words of {len(texts)} texts has a vector")
        return cls(tuple(kinds), weighting, frozenset(stop_words), vocabulary, idf, kept)

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n width"]:
        """The features of `texts`; words that are not known count nothing."""
        parts = []
        for kind in self.kinds:
            if kind == "vectors":
                assert self.vectors is not None
                part = average_vectors(texts, self.vectors, stop_words=self.stop_words)
            else:
                assert self.vocabulary is not None
                part = count_words(texts, self.vocabulary)
                part = np.minimum(part, 1) if self.weighting == "binary" else np.log1p(part) * self.idf
            norms = np.linalg.norm(part, axis=1, keepdims=True)
            parts.append(part / np.where(norms > 0, norms, 1))
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def save(self, folder: str | Path) -> None:
        """Writes `folder` (text_features.json and .npz), all or nothing. Raises FileExistsError where it is there."""
        target = Path(folder)
        if target.exists():
            raise FileExistsError(f"{target} already exists; remove it first, or choose another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            os.chmod(workshop, 0o755)
            about = {
                "format": FORMAT,
                "kinds": self.kinds,
                "weighting": self.weighting,
                "stop_words": sorted(self.stop_words),
                "vocabulary": self.vocabulary.words if self.vocabulary else None,
                "vector_words": self.vectors.words if self.vectors else None,
            }
            (workshop / "text_features.json").write_text(
                json.dumps(about, ensure_ascii=False) + "\n", "utf-8"
            )
            arrays = {"idf": self.idf, "vectors": self.vectors.vectors if self.vectors else None}
            present = {key: array for key, array in arrays.items() if array is not None}
            np.savez(workshop / "text_features.npz", **present)  # type: ignore[arg-type]
            os.rename(workshop, target)
        except BaseException:
            shutil.rmtree(workshop, ignore_errors=True)
            raise

    @classmethod
    def load(cls, folder: str | Path) -> "TextFeatures":
        """What `save` wrote: it encodes to the same bits. Raises FileNotFoundError, or ValueError for another format."""
        base = Path(folder)
        for file in (base / "text_features.json", base / "text_features.npz"):
            if not file.is_file():
                raise FileNotFoundError(f"no text encoder at {file}; TextFeatures.save writes one")
        about = json.loads((base / "text_features.json").read_text("utf-8"))
        if about.get("format") != FORMAT:
            raise ValueError(f"{base} has format {about.get('format')}; this version reads {FORMAT}")
        with np.load(base / "text_features.npz", allow_pickle=False) as file_arrays:
            arrays = {key: file_arrays[key] for key in file_arrays.files}
        vocabulary = Vocabulary(tuple(about["vocabulary"])) if about["vocabulary"] is not None else None
        idf = arrays.get("idf")
        if (0 if vocabulary is None else len(vocabulary)) != (0 if idf is None else len(idf)):
            raise ValueError(f"{base}: text_features.json and text_features.npz do not belong together")
        words = about["vector_words"]
        vectors = None if words is None else WordVectors(tuple(words), arrays["vectors"])
        return cls(
            tuple(about["kinds"]),
            about["weighting"],
            frozenset(about["stop_words"]),
            vocabulary,
            idf,
            vectors,
        )
