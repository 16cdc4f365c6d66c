"""A manifest of pictures and texts as a TFDS folder that `load_pairs` reads."""

import csv
import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from kdhash.data.pictures import FORMATS, decode_picture
from kdhash.data.stratify import hash_order
from kdhash.data.write_tfds import Example, encode_png, write_dataset

VERSION = "1.0.0"
SIZE = 128
TEXT_FIELDS = ("text", "texts", "caption", "captions")
FIELDS = ("image", *TEXT_FIELDS, "labels", "id", "split")
PORTION = 256  # pictures decoded ahead of what is written


@dataclass(frozen=True)
class PairRow:
    """A pair to be written. place: where it comes from, 'line 7'.  texts: none of them blank.  labels: numbers."""

    place: str
    identity: str
    image: Path
    texts: tuple[str, ...]
    labels: tuple[int, ...]
    split: str


@dataclass(frozen=True)
class PairReport:
    """What was written. counts: pairs per split.  skipped: (place, id, reason), also in the file `skipped_file`."""

    folder: Path
    label_names: tuple[str, ...]
    counts: dict[str, int]
    skipped: tuple[tuple[str, str, str], ...]
    skipped_file: Path | None


def prepare_pairs(
    manifest: str | Path,
    name: str,
    data_dir: str | Path,
    *,
    images: str | Path | None = None,
    size: int = SIZE,
    query_share: float = 0.1,
    seed: int = 0,
) -> PairReport:
    """Builds `data_dir`/`name`/1.0.0 from a manifest: JSON lines (.jsonl), .csv (with a header) or .parquet, a pair a row:

    - image: a picture file, relative to `images` (the manifest's folder where not given) or absolute;
    - one of text, texts, caption, captions: a text, or a list of them (in CSV written as a JSON list);
    - labels (optional): a list of names, or names divided by ';';  id (optional): the image path where not given;
    - split (optional, in all rows or none): 'query' (or 'test') and 'database' (or 'train') suit the protocol
      'pairs'. Where not given, a share `query_share` of the rows, drawn by a hash of seed and id among those
      whose picture can be read, is 'query'.

    Pictures become `size` x `size` (shorter side resized, centre cut), stored losslessly. Rows without text or
    picture ('image' null or blank), or whose picture is missing or damaged, are left out, and listed in the report and in
    `data_dir`/`name`/skipped-1.0.0.tsv. Nothing is left behind on failure. Raises FileNotFoundError,
    FileExistsError, ImportError (Parquet without pyarrow), and ValueError naming line and field for unknown or
    missing fields, values of a wrong kind and ids given twice, and where no pair of a split can be read.
    """
    source = Path(manifest)
    check_target(name, data_dir, size)
    if not 0 < query_share < 1:
        raise ValueError(f"query_share is {query_share}; give a share between 0 and 1")
    if not source.is_file():
        raise FileNotFoundError(f"no manifest {source}; give a .jsonl, .csv or .parquet file")
    root = source.parent if images is None else Path(images)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder of pictures {root}")
    try:
        raw = [_parse(record, f"{source} {place}", place) for place, record in _read_manifest(source)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not written in UTF-8: {error}") from error
    if not raw:
        raise ValueError(f"{source} has no rows")
    first: dict[str, str] = {}
    pictured = [row for row in raw if row.image]
    for row in pictured:
        if row.identity in first:
            raise ValueError(
                f"{source} {row.place}: id {row.identity!r} is that of {first[row.identity]}; give each row its own 'id' "
                "(without one it is the image path), and several texts of a picture as one list"
            )
        first[row.identity] = row.place
    without = [row.place for row in raw if row.split is None]
    if without and len(without) < len(raw):
        raise ValueError(
            f"{source} {without[0]}: no 'split', which other rows have; give it in all rows or none"
        )
    queries: set[str] = set()
    if without:
        usable = [row for row in pictured if row.texts]
        count = min(max(1, round(query_share * len(usable))), len(usable) - 1)
        for place in hash_order([row.identity for row in usable], f"{seed}/query"):
            if len(queries) >= count:
                break
            row = usable[place]
            with _no_warnings():
                readable = bool(_to_png(root / row.image, size)[0])
            if readable:
                queries.add(row.identity)
    label_names = tuple(sorted({label for row in raw for label in row.labels}))
    numbers = {label: number for number, label in enumerate(label_names)}
    skipped = [
        (row.place, row.identity, "no text" if row.image else "no picture")
        for row in raw
        if not (row.image and row.texts)
    ]
    rows = [
        PairRow(
            row.place,
            row.identity,
            root / row.image,
            row.texts,
            tuple(sorted({numbers[label] for label in row.labels})),
            row.split or ("query" if row.identity in queries else "database"),
        )
        for row in pictured
        if row.texts
    ]
    description = f"Pairs of pictures, {size} x {size}, and texts, prepared by kdhash from {source.name}."
    return write_pairs(
        rows, name, data_dir, size=size, label_names=label_names, description=description, skipped=skipped
    )


def check_target(name: str, data_dir: str | Path, size: int) -> None:
    """Raises ValueError or FileExistsError where `write_pairs` would, before anything is read."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "digits":
        raise ValueError(
            f"name {name!r}: give lower-case letters, digits and _, and not 'digits', which is built in"
        )
    if size < 1:
        raise ValueError(f"size is {size}; at least 1 pixel is needed")
    target = Path(data_dir) / name / VERSION
    if target.exists():
        raise FileExistsError(f"{target} already exists; remove it first, or choose another name or data_dir")


def write_pairs(
    rows: Sequence[PairRow],
    name: str,
    data_dir: str | Path,
    *,
    size: int,
    label_names: Sequence[str],
    description: str,
    skipped: Sequence[tuple[str, str, str]] = (),
) -> PairReport:
    """Writes `rows`, features id, image, captions and (with `label_names`) labels; see `prepare_pairs`.

    `skipped` are rows that the caller has left out: they are in the report too.
    """
    check_target(name, data_dir, size)
    left_out = list(skipped)
    splits: dict[str, list[PairRow]] = {}
    for row in rows:
        splits.setdefault(row.split, []).append(row)
    if not splits:
        raise ValueError(f"no pair of {name!r} can be used: {len(left_out)} rows have no text or picture")
    counts = dict.fromkeys(splits, 0)

    def examples(split: str) -> Iterator[Example]:
        members = splits[split]
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(members), PORTION):
                portion = members[start : start + PORTION]
                with _no_warnings():
                    encoded = list(pool.map(lambda row: _to_png(row.image, size), portion))
                for row, (png, reason) in zip(portion, encoded, strict=True):
                    if not png:
                        left_out.append((row.place, row.identity, reason))
                        continue
                    counts[split] += 1
                    example = {"id": row.identity, "image": png, "captions": list(row.texts)}
                    yield row.identity, example | ({"labels": list(row.labels)} if label_names else {})
        if not counts[split]:
            place, identity, why = left_out[-1]
            raise ValueError(
                f"no picture of the split {split!r} can be read; the last: {place}, {identity}: {why}"
            )

    folder = write_dataset(
        data_dir,
        name,
        VERSION,
        image_shape=(size, size, 3),
        label_names={},
        splits={split: examples(split) for split in sorted(splits)},
        about={"description": description},
        text_lists=("captions",),
        label_lists={"labels": label_names} if label_names else None,
    )
    left_out.sort(key=lambda one: [int(number) for number in re.findall(r"\d+", one[0])])
    listing = folder.with_name(f"skipped-{VERSION}.tsv")
    listing.unlink(missing_ok=True)  # of data that were here before
    if left_out:
        lines = [
            "place\tid\treason",
            *("\t".join(re.sub(r"\s", " ", cell) for cell in one) for one in left_out),
        ]
        temporary = listing.with_name(f".{listing.name}.tmp")
        temporary.write_text("\n".join(lines) + "\n", "utf-8", "backslashreplace")
        os.replace(temporary, listing)
    return PairReport(folder, tuple(label_names), counts, tuple(left_out), listing if left_out else None)


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Of Pillow: too large pictures are refused by name, and doubtful metadata is passed over."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield


def _to_png(path: Path, size: int) -> tuple[bytes, str]:
    """PNG bytes and '', or b'' and the reason why there are none."""
    if not path.is_file():
        return b"", f"no file {path}"
    try:
        return encode_png(decode_picture(path, size)), ""
    except UnidentifiedImageError:
        return b"", f"{path} is not a picture in a known format ({', '.join(FORMATS)})"
    except Exception as error:  # decoders raise anything on damaged input
        return b"", f"{path}: {str(error).strip() or type(error).__name__}"


@dataclass(frozen=True)
class _Parsed:
    """image: '' where the row has none; then neither has `identity` to be unlike others."""

    place: str
    identity: str
    image: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    split: str | None


def _read_manifest(source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """('line 7', fields) of every row. Fields that are null or (in CSV) blank are as good as absent."""
    if source.suffix in (".jsonl", ".ndjson"):
        with source.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{source} line {number} is no JSON: {error}") from error
                if not isinstance(record, dict):
                    raise ValueError(f"{source} line {number} is no JSON object: {line[:60]!r}")
                yield f"line {number}", record
    elif source.suffix == ".csv":
        with source.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            try:
                _check_fields(reader.fieldnames or (), f"{source} line 1")
                for record in reader:
                    if None in record:
                        raise ValueError(f"{source} line {reader.line_num} has more fields than the header")
                    yield (
                        f"line {reader.line_num}",
                        {key: _from_csv(key, value) for key, value in record.items()},
                    )
            except csv.Error as error:
                raise ValueError(f"{source} line {reader.line_num}: {error}") from error
    elif source.suffix == ".parquet":
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise ImportError(f"{source} is Parquet, which needs pyarrow: pip install pyarrow") from error
        try:
            with parquet.ParquetFile(source) as file:
                _check_fields(file.schema_arrow.names, str(source))
                number = 0
                for batch in file.iter_batches(1024):
                    for record in batch.to_pylist():
                        number += 1
                        yield f"row {number}", record
        except pyarrow.ArrowException as error:
            raise ValueError(f"{source} is no Parquet file that can be read: {error}") from error
    else:
        raise ValueError(f"{source} ends in {source.suffix!r}; manifests are .jsonl, .csv or .parquet")


def _check_fields(names: Sequence[str], place: str) -> None:
    unknown = [name for name in names if name not in FIELDS]
    if unknown:
        raise ValueError(f"{place}: unknown field {unknown[0]!r}; known: {', '.join(FIELDS)}")
    if "image" not in names:
        raise ValueError(f"{place}: no field 'image'")
    given = [name for name in names if name in TEXT_FIELDS]
    if len(given) != 1:
        wanted = ", ".join(map(repr, TEXT_FIELDS))
        raise ValueError(
            f"{place}: {'several text fields' if given else 'no text field'}; give one of {wanted}"
        )


def _from_csv(field: str, value: str | None) -> Any:
    value = (value or "").strip()
    if value.startswith("[") and field in (*TEXT_FIELDS, "labels"):
        try:
            values = json.loads(value)
        except ValueError:
            return value  # a text may well begin with a bracket
        return values if isinstance(values, list) else value
    return value if value or field in TEXT_FIELDS else None


def _parse(record: dict[str, Any], where: str, place: str) -> _Parsed:
    _check_fields(list(record), where)
    image = record["image"]
    if image is None or (isinstance(image, str) and not image.strip()):
        image = ""  # to be listed: one row of thousands must not stop the others
    if not isinstance(image, str):
        raise ValueError(f"{where}: 'image' is {_short(image)}; give the path of a picture")
    field = next(name for name in record if name in TEXT_FIELDS)
    texts = _strings(record[field], where, field)
    labels = record.get("labels")
    if isinstance(labels, str):
        labels = labels.split(";")
    names = _strings(labels, where, "labels")
    if any("\n" in name or "\r" in name for name in names):
        raise ValueError(f"{where}: 'labels' has a line break in a name")
    identity = record.get("id")
    if identity is not None and (isinstance(identity, bool | float) or not str(identity).strip()):
        raise ValueError(f"{where}: 'id' is {_short(identity)}; give a text or a whole number")
    split = record.get("split")
    if split is not None and (
        not isinstance(split, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", split) or split == "all"
    ):
        raise ValueError(
            f"{where}: 'split' is {_short(split)}; give lower-case letters, digits and _, and not 'all'"
        )
    name = image if identity is None else str(identity)
    try:
        "".join((name, image, *texts, *names)).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: half of a character pair, which is no text: {error}") from error
    return _Parsed(place, name, image, texts, names, split)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _strings(value: Any, where: str, field: str) -> tuple[str, ...]:
    """A string, a list of strings (whole numbers for labels), or null, less what is blank."""
    values = [] if value is None else [value] if isinstance(value, str) else value
    kinds = (str, int) if field == "labels" else (str,)
    if not isinstance(values, list) or not all(
        isinstance(one, kinds) and not isinstance(one, bool) for one in values
    ):
        raise ValueError(f"{where}: {field!r} is {_short(value)}; give a text or a list of texts")
    return tuple(text for text in (str(one).strip() for one in values) if text)
