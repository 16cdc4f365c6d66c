"""A model folder, read: what it is, and pictures and texts to packed codes. Importing this module starts no JAX."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

FORMAT, VERSION = "kdhash-model", 1
MODEL_FILE, WEIGHTS_FILE, TEXTS, CARD_FILE = "model.json", "weights.safetensors", "texts", "README.md"
IMAGE, IMAGE_TEXT = "image", "image-text"
ENGINES = ("jax", "stablehlo", "onnx")
# What of model.json decides codes, and so goes into the model's hash. 'contents' are digests of weights and words.
DECIDES = ("format", "version", "bits", "bit_order", "picture", "network", "contents")
PADDED = (1, 8, 64)  # sizes of batches, up to the full one: a compiled program each


@dataclass(frozen=True, eq=False)
class Facts:
    """What model.json says. `document` is all of it."""

    folder: Path
    hash: str  # sha256 over everything that decides codes
    kind: str  # 'image' or 'image-text'
    bits: int
    size: int  # pixels of a side of the pictures that the network takes
    searches: tuple[str, ...]  # hashes of models whose codes its queries may search, itself first
    preprocessing: str  # sha256 over how pictures are fitted and normalised
    document: Mapping[str, Any]


class Encoders(NamedTuple):
    """What an engine gives: a batch to packed codes [batch, bytes]."""

    pictures: Callable[[np.ndarray], np.ndarray]  # of uint8 pictures
    texts: Callable[[np.ndarray], np.ndarray] | None  # of what `reader` makes of texts
    padded: bool  # each size of batch costs a compilation


@dataclass(frozen=True, eq=False)
class Model(Facts):
    """A model that encodes. Codes are packed, most significant bit first (`np.packbits`), bit 1 = +1.

    Safe to be used from several threads at once.
    """

    engine: str
    batch_size: int
    encoders: Encoders
    reader: Callable[[Sequence[str]], np.ndarray] | None

    def encode_pictures(self, pictures: UInt8[np.ndarray, "n size size 3"]) -> UInt8[np.ndarray, "n bytes"]:
        """RGB pictures as `fit` gives them, any number, to packed codes. Raises ValueError for another shape or dtype."""
        pictures = np.asarray(pictures)
        wanted = (self.size, self.size, 3)
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1:] != wanted:
            raise ValueError(
                f"pictures: this model takes uint8 [n, {self.size}, {self.size}, 3], got {pictures.dtype} "
                f"{list(pictures.shape)}; model.fit brings a picture file to that size"
            )
        return self._in_batches(self.encoders.pictures, pictures)

    def encode_texts(self, texts: Sequence[str]) -> UInt8[np.ndarray, "n bytes"]:
        """Texts to packed codes. Raises ValueError where the model has no text tower, and for anything but a list of strings."""
        if self.reader is None:
            raise ValueError(
                f"{self.folder} hashes pictures only; texts need a model that learned both (a KDCMH student)"
            )
        if self.encoders.texts is None:
            raise ValueError(missing(self, f"text.{self.engine}"))
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ValueError("texts: give a list of strings")
        if not len(texts):
            return np.zeros((0, self.bits // 8), np.uint8)
        return self._in_batches(self.encoders.texts, self.reader(texts))

    def fit(self, picture: str | Path | bytes) -> UInt8[np.ndarray, "size size 3"]:
        """A picture file, or its bytes, as the model takes it: upright RGB, the shorter side resized, the centre cut out.

        Raises FileNotFoundError, and ValueError or an OSError of Pillow for what is no sound picture.
        """
        from kdhash.data.pictures import decode_picture

        return decode_picture(picture if isinstance(picture, bytes) else Path(picture), self.size)

    def _in_batches(self, encode: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
        codes = np.zeros((len(values), self.bits // 8), np.uint8)
        for start in range(0, len(values), self.batch_size):
            part = values[start : start + self.batch_size]
            count = len(part)
            if self.encoders.padded:
                full = next((size for size in PADDED if count <= size <= self.batch_size), self.batch_size)
                part = np.pad(part, [(0, full - count)] + [(0, 0)] * (part.ndim - 1), mode="edge")
            codes[start : start + count] = encode(part)[:count]
        return codes


def read_model(folder: str | Path) -> Facts:
    """What a model folder says of itself; reads model.json alone.

    Raises FileNotFoundError where there is none, ValueError for another format, or facts that do not belong to the hash.
    """
    folder = Path(folder)
    path = folder / MODEL_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is no model folder: it has no {MODEL_FILE}; `kdhash export` makes one"
        )
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["format"] != FORMAT or document["version"] != VERSION:
            raise ValueError(
                f"{path} has format {document['format']!r}, version {document['version']!r}; "
                f"this kdhash reads {FORMAT!r}, version {VERSION}"
            )
        if document["hash"] != model_hash(document):
            raise ValueError(
                f"{path} was changed: its facts do not give the model's hash; export the run again"
            )
        return Facts(
            folder,
            document["hash"],
            document["kind"],
            document["bits"],
            document["picture"]["size"],
            tuple(document["searches"]),
            document["preprocessing"],
            document,
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}); export the run again"
        ) from None


def load_model(folder: str | Path, *, engine: str = "jax", batch_size: int = 256) -> Model:
    """A model folder, ready to encode in batches of at most `batch_size`. All files are compared with their sha256 first.

    engine: 'jax' rebuilds the network in Flax and spreads full batches over all local devices; 'stablehlo' runs
    image.stablehlo; 'onnx' runs image.onnx by ONNX Runtime on the CPU and imports no JAX. Raises as `read_model` does,
    ValueError naming a file that is missing or changed, or that this model does not have, and ImportError for an extra that
    is not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}; choose one of {', '.join(ENGINES)}")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give at least 1")
    facts = read_model(folder)
    check_files(facts)
    if engine == "jax":
        from kdhash.export.network import open_network as opened
    elif engine == "stablehlo":
        from kdhash.export.stablehlo import open_stablehlo as opened
    else:
        from kdhash.export.onnx import open_onnx as opened
    return Model(
        **vars(facts), engine=engine, batch_size=batch_size, encoders=opened(facts), reader=text_reader(facts)
    )


def check_files(facts: Facts) -> None:
    """Raises ValueError naming the first file that is missing, or whose bytes are not those that were exported."""
    for name, said in facts.document["files"].items():
        path = facts.folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing; export the run again")
        if path.stat().st_size != said["bytes"] or file_sha256(path) != said["sha256"]:
            raise ValueError(f"{path} was changed since it was exported; export the run again")


def artefact(facts: Facts, name: str) -> Path:
    """The path of one of the folder's files. Raises ValueError, with the reason, where this model has none of that name."""
    if name not in facts.document["files"]:
        raise ValueError(missing(facts, name))
    return facts.folder / name


def missing(facts: Facts, name: str) -> str:
    return f"{facts.folder} has no {name}: {facts.document['left_out'].get(name, 'it was not exported')}"


def text_reader(facts: Facts) -> Callable[[Sequence[str]], np.ndarray] | None:
    """What makes a text tower's input of texts: features [n, width] of words, or token ids [n, length]."""
    text = facts.document["network"].get("text")
    if text is None:
        return None
    if text["reads"] == "words":
        from kdhash.data.texts import TextFeatures

        return TextFeatures.load(facts.folder / TEXTS).encode
    from kdhash.teachers.tokenizer import load_tokenizer

    return load_tokenizer(facts.folder / TEXTS, length=text["length"])


def model_hash(document: Mapping[str, Any]) -> str:
    """sha256 over what of model.json decides codes."""
    return json_sha256({name: document[name] for name in DECIDES})


def preprocessing_hash(document: Mapping[str, Any]) -> str:
    """sha256 over how pictures are fitted by the host, and resized and normalised by the network."""
    image = document["network"]["image"]
    return json_sha256({"picture": document["picture"], "preprocessing": image["preprocessing"]})


def json_sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def arrays_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """Over names, shapes, dtypes and values: the same however a file keeps them."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def texts_sha256(files: Mapping[str, Path]) -> str:
    """Over the contents of files of words or of a tokenizer, given by name."""
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                content = arrays_sha256({name: file[name] for name in file.files})
        else:
            content = file_sha256(path)
        digest.update(f"{name}\0{content}\0".encode())
    return digest.hexdigest()
