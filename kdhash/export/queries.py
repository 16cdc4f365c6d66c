"""What one searches with: a picture, a text, an item's id, a code; each becomes a packed code."""

import difflib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from kdhash.export.pictures_ahead import why_unreadable
from kdhash.retrieval.index import Index, UnknownItem

KINDS = ("picture", "text", "id", "code")
LOOKED_AT = 20_000  # ids that are compared letter by letter when one is not there


@dataclass
class Query:
    """kind: one of `KINDS`.  code: packed, once it is known.  number: of the item itself, which is no answer; -1 for none.
    error: why there is no code."""

    kind: str
    value: str
    code: UInt8[np.ndarray, " bytes"] | None = None
    number: int = -1
    error: str = ""


class QueryEncoder:
    """Makes codes of queries; the model is loaded when a picture or a text first needs it.

    model: a model folder, or None for the one that the index remembers.  engine: one of `load_model`, or 'auto': onnx where the
    model and this installation have it (it loads in a tenth of the time), else jax.  seconds: 'model' (load, and compile),
    'encode'.
    """

    def __init__(self, index: Index, model: str | None, engine: str = "auto"):
        self.index, self.given, self.engine = index, model, engine
        self.seconds = {"model": 0.0, "encode": 0.0}
        self._model: Any = None

    def fill(self, queries: Sequence[Query]) -> None:
        """Gives every query its code, or its error (a picture that cannot be read, an id that is not there, a code of another
        length). Raises ValueError where a model is needed and there is none, or none that suits."""
        for query in queries:
            try:
                if query.kind == "id":
                    query.number = self.index.number_of(query.value)
                    query.code = self.index.codes_of([query.number])[0]
                elif query.kind == "code":
                    query.code = parse_code(query.value, self.index.bits)
            except UnknownItem:
                query.error = unknown_id(self.index, query.value)
            except ValueError as error:
                query.error = str(error)
        self._encode([query for query in queries if query.kind == "picture" and query.code is None])
        texts = [query for query in queries if query.kind == "text"]
        if texts:
            codes = self._timed(lambda model: model.encode_texts([query.value for query in texts]))
            for query, code in zip(texts, codes, strict=True):
                query.code = code

    def model(self) -> Any:
        """The model, loaded once, if its codes may search the index."""
        if self._model is None:
            start = time.perf_counter()
            folder = model_folder(self.index, self.given)
            from kdhash.export.model import load_model

            try:
                self._model = load_model(folder, engine="onnx" if self.engine == "auto" else self.engine)
            except (ValueError, ImportError):
                if self.engine != "auto":
                    raise
                self._model = load_model(folder)
            self.seconds["model"] += time.perf_counter() - start
        return self._model

    def _encode(self, queries: Sequence[Query]) -> None:
        for query in queries:
            if not Path(query.value).is_file():
                query.error = f"no file {query.value}"
        there = [query for query in queries if not query.error]
        if not there:  # a model is not loaded for a mistyped name
            return
        model, pictures, readable = self.model(), [], []
        for query in there:
            try:
                pictures.append(model.fit(query.value))
                readable.append(query)
            except Exception as error:  # decoders raise anything on damaged input
                query.error = f"{query.value}: {why_unreadable(error)}"
        if readable:
            codes = self._timed(lambda model: model.encode_pictures(np.stack(pictures)))
            for query, code in zip(readable, codes, strict=True):
                query.code = code

    def _timed(self, encode: Any) -> UInt8[np.ndarray, "n bytes"]:
        model, times = self.model(), []
        # twice the first time: what compiling takes is not what encoding takes
        for _ in range(1 if self.seconds["encode"] else 2):
            start = time.perf_counter()
            codes = encode(model)
            times.append(time.perf_counter() - start)
        self.seconds["encode"] += times[-1]
        self.seconds["model"] += sum(times[:-1])
        return codes


def model_folder(index: Index, given: str | None) -> Path:
    """The model folder that was given, or that the index remembers, if its codes may search the index.

    Raises ValueError, with the hashes of both, where they may not, and where there is no folder.
    """
    from kdhash.export.model import read_model

    if given is not None:
        check_may_search(read_model(given), index)
        return Path(given)
    remembered = remembered_models(index)
    for path in remembered:
        try:
            check_may_search(read_model(path), index)
        except (OSError, ValueError):
            continue
        return Path(path)
    made = (
        f"its codes were made by model {index.model[:12]}" if index.model else "its codes come from elsewhere"
    )
    where = f", which lay in {remembered[0]}" if remembered else ""
    raise ValueError(
        f"which model? {index.path} does not say where one lies ({made}{where}); give --model FOLDER"
    )


def remembered_models(index: Index) -> list[str]:
    """Where the models lay that encoded the index's items, the latest first."""
    return [source["model_path"] for source in reversed(index_sources(index)) if source.get("model_path")]


def index_sources(index: Index) -> list[dict[str, Any]]:
    """What the index's items were encoded from: {'kind', 'path', 'model_path'}, in the order of adding."""
    return list(index.manifest.get("sources", ()))


def check_may_search(model: Any, index: Index) -> None:
    """Raises ValueError, with both hashes, where this model's codes cannot be compared with the index's."""
    if model.bits != index.bits:
        raise ValueError(
            f"{index.path} has codes of {index.bits} bits, and {model.folder} makes {model.bits}"
        )
    if not index.model:
        return  # codes from elsewhere: whoever gives a model knows
    if index.model not in model.searches and model.hash not in index.searched_by:
        others = f" and those of {', '.join(model.searches[1:])}" if model.searches[1:] else ""
        raise ValueError(
            f"{index.path} has codes of model {index.model}, and {model.folder} is model {model.hash}, which may search its "
            f"own codes{others} only: give the index's model, or encode the items with this one"
        )


def parse_code(text: str, bits: int) -> UInt8[np.ndarray, " bytes"]:
    """Hexadecimal digits, the first bit first, as a packed code. Raises ValueError for another number of them."""
    digits = text.strip().removeprefix("0x")
    if len(digits) * 4 != bits or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
        raise ValueError(f"{text!r} is no code of {bits} bits: give {bits // 4} hexadecimal digits")
    return np.frombuffer(bytes.fromhex(digits), np.uint8)


def unknown_id(index: Index, name: str) -> str:
    """'no item ...', with ids that are like it."""
    near = near_ids(index, name)
    meant = (
        f"; did you mean {' or '.join(map(repr, near))}?"
        if near
        else "; `kdhash index info` says what is in it"
    )
    return f"no item {name!r} in {index.path}{meant}"


def near_ids(index: Index, name: str, count: int = 3) -> list[str]:
    """Ids of live items with the same file name, or else with the given text inside, or else with nearly the same letters."""
    import pyarrow as pa
    import pyarrow.compute as pc

    base = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    columns = [
        segment.table["id"]
        if segment.deleted is None
        else segment.table["id"].filter(pa.array(~segment.deleted))
        for segment in index.segments
    ]
    for wanted in dict.fromkeys([base, base.rsplit(".", 1)[0]]):
        found: list[str] = []
        for column in columns:
            if wanted and len(found) < LOOKED_AT:
                found += (
                    column.filter(pc.match_substring(column, wanted, ignore_case=True))
                    .slice(0, LOOKED_AT)
                    .to_pylist()
                )
        if found:
            return sorted(found, key=lambda one: (-difflib.SequenceMatcher(None, one, name).ratio(), one))[
                :count
            ]
    alike: list[str] = []
    for column in columns:
        lengths = pc.utf8_length(column)
        near = pc.and_(pc.greater_equal(lengths, len(name) - 2), pc.less_equal(lengths, len(name) + 2))
        alike += column.filter(near).slice(0, LOOKED_AT - len(alike)).to_pylist()
    return difflib.get_close_matches(name, alike, count, 0.7)


def read_batch(path: Path, index: Index, texts_possible: bool) -> Iterator[Query]:
    """Queries of a folder of codes, a folder of pictures, a .jsonl file or a .txt file; see the command's help."""
    if path.is_dir():
        if (path / "manifest.json").is_file():
            return _codes_folder(path, index)
        from kdhash.data.stream import picture_names

        names = picture_names(path)
        return (Query("picture", str(path / name)) for name in names)
    if not path.is_file():
        raise FileNotFoundError(
            f"--batch: no folder or file {path}; give a folder of codes or of pictures, a .jsonl or a .txt file"
        )
    if path.suffix == ".jsonl":
        return _json_lines(path)
    if path.suffix == ".txt":
        return _text_lines(path, index, texts_possible)
    raise ValueError(f"--batch: {path} ends in {path.suffix!r}; give a .jsonl or .txt file, or a folder")


def _codes_folder(path: Path, index: Index) -> Iterator[Query]:
    from kdhash.retrieval.items import open_items

    items = open_items(path)
    check_codes(items.manifest, path, index)
    for start in range(0, items.count, 1024):
        rows = np.arange(start, min(start + 1024, items.count))
        for name, code in zip(items.ids_at(rows), items.codes[rows], strict=True):
            yield Query("picture" if items.manifest.get("items") != "texts" else "text", name, code)


def check_codes(manifest: Any, path: Path, index: Index) -> None:
    """Raises ValueError, with both hashes, where codes of a folder cannot be compared with the index's."""
    if manifest["bits"] != index.bits:
        raise ValueError(f"{path} has codes of {manifest['bits']} bits, and {index.path} of {index.bits}")
    mine, theirs = manifest["model"], index.model
    if theirs not in (mine, *manifest.get("searches", ())) and mine not in index.searched_by:
        raise ValueError(
            f"{path} has codes of model {mine or 'none'}, and {index.path} of model {theirs or 'none'}: codes of two models "
            "cannot be compared"
        )


def _json_lines(path: Path) -> Iterator[Query]:
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                [(kind, value)] = [(key, record[key]) for key in KINDS if key in record]
            except (ValueError, TypeError):
                raise ValueError(
                    f'{path} line {number}: give one of {", ".join(KINDS)} as JSON, such as {{"picture": "cat.jpg"}}'
                ) from None
            if not isinstance(value, str):
                raise ValueError(f"{path} line {number}: {kind!r} is {value!r}; give a text")
            yield Query(kind, str(path.parent / value) if kind == "picture" else value)


def _text_lines(path: Path, index: Index, texts_possible: bool) -> Iterator[Query]:
    lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} has no lines")
    known = index.find(lines)
    ids = len(known) == len(set(lines)) or not texts_possible
    return (Query("id" if ids else "text", line) for line in lines)
