"""MIRFLICKR-25K and NUS-WIDE, as their authors publish them, as TFDS folders of pictures, tags and labels.

The text of a row is its tags of the kept vocabulary, divided by spaces; rows without such a tag, or without a label,
are pruned, as cross-modal hashing does since DCMH. All rows are one split, 'database'; the protocols 'mirflickr25k' and
'nuswide10' draw their queries from it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from kdhash.data.prepare_pairs import SIZE, PairReport, PairRow, check_target, write_pairs

MIR_MIN_COUNT = 20
NUS_LABELS, NUS_TAGS = 10, 1000
PUBLISHED = {"mirflickr25k": 20_015, "nuswide": 186_577}  # pairs after pruning


def prepare_mirflickr25k(
    source: str | Path,
    data_dir: str | Path,
    *,
    name: str = "mirflickr25k",
    size: int = SIZE,
    min_count: int = MIR_MIN_COUNT,
) -> PairReport:
    """Builds `data_dir`/`name` from `source`: im1.jpg ..., meta/tags/tags1.txt ... (or both in mirflickr/), and
    mirflickr25k_annotations_v080/<label>.txt (numbers of pictures; the stricter <label>_r1.txt are ignored).

    Kept are tags that `min_count` pictures or more have (1,386 in the published data), and pairs with such a tag and one
    of the 24 labels (20,015). ids are 'im1', ... Raises FileNotFoundError naming what is missing, FileExistsError, and
    ValueError naming file and line.
    """
    check_target(name, data_dir, size)
    root = _folder(source)
    pictures = root / "mirflickr" if (root / "mirflickr").is_dir() else root
    tag_folder = pictures / "meta" / "tags"
    _need(tag_folder.is_dir(), tag_folder, "the folder of tags1.txt, tags2.txt, ...")
    annotations = ("mirflickr25k_annotations_v080", "annotations_v080", "annotations")
    found = [base / one for base in (root, pictures) for one in annotations if (base / one).is_dir()]
    _need(bool(found), root / annotations[0], "the folder of <label>.txt files")

    tags: dict[int, list[str]] = {}
    for path in tag_folder.glob("tags*.txt"):
        number = path.stem.removeprefix("tags")
        if number.isdigit():
            lines = path.read_text("utf-8", "replace").splitlines()
            tags[int(number)] = list(dict.fromkeys(_one_word(line) for line in lines if line.strip()))
    _need(bool(tags), tag_folder / "tags1.txt", "the tags of picture 1")
    counts = Counter(tag for own in tags.values() for tag in own)

    files = [path for path in sorted(found[0].glob("*.txt")) if not path.stem.endswith("_r1")]
    files = [path for path in files if path.stem.lower() != "readme"]
    _need(bool(files), found[0] / "<label>.txt", "the numbers of the pictures with a label")
    labels: dict[int, list[int]] = {}
    for label, path in enumerate(files):
        for line, text in enumerate(path.read_text().splitlines(), 1):
            if text.strip():
                if not text.strip().isdigit() or int(text) not in tags:
                    raise ValueError(
                        f"{path} line {line}: {text!r} is no number of a picture with a file of tags"
                    )
                labels.setdefault(int(text), []).append(label)
    rows = [
        PairRow(
            str((tag_folder / f"tags{number}.txt").relative_to(root)),
            f"im{number}",
            pictures / f"im{number}.jpg",
            (" ".join(kept),),
            tuple(dict.fromkeys(labels[number])),
            "database",
        )
        for number in sorted(tags.keys() & labels.keys())
        if (kept := [tag for tag in tags[number] if counts[tag] >= min_count])
    ]
    return _write(rows, name, data_dir, size, [path.stem for path in files], "MIRFLICKR-25K")


def prepare_nuswide(
    source: str | Path,
    data_dir: str | Path,
    *,
    name: str = "nuswide10",
    size: int = SIZE,
    labels: int = NUS_LABELS,
    tags: int = NUS_TAGS,
) -> PairReport:
    """Builds `data_dir`/`name` from `source`:

    - ImageList/Imagelist.txt: a picture a line, 'actor\\0001_2124494179.jpg', below Flickr/ (or images/);
    - Groundtruth/AllLabels/Labels_<concept>.txt: 0 or 1 a line;
    - NUS_WID_Tags/: AllTags1k.txt (0 and 1, a row a picture) with TagList1k.txt (its tags in order), or All_Tags.txt
      (a line a picture: its photo number, then its tags), of which the `tags` most frequent are kept,
      those of TagList1k.txt where it is there. The two give nearly, not quite, the same tags.

    Kept are the `labels` most frequent labels, and pairs with one of them and a tag (published: 186,577).
    ids are 'actor/0001_2124494179'. Raises FileNotFoundError naming what is missing, FileExistsError, and ValueError
    naming file and line.
    """
    check_target(name, data_dir, size)
    root = _folder(source)
    list_file = root / "ImageList" / "Imagelist.txt"
    _need(list_file.is_file(), list_file, "the list of pictures")
    places = [line.strip().replace("\\", "/") for line in list_file.read_text().splitlines() if line.strip()]
    folder = next((root / one for one in ("Flickr", "images") if (root / one).is_dir()), None)
    _need(folder is not None, root / "Flickr", "the folder of <concept>/<picture>.jpg")
    assert folder is not None
    truth = root / "Groundtruth" / "AllLabels"
    files = sorted(truth.glob("Labels_*.txt"))
    _need(bool(files), truth / "Labels_<concept>.txt", "0 or 1 for each picture")
    columns = [_binary_column(path, len(places)) for path in files]
    # most frequent first, then alphabetically; the columns stay in alphabetical order
    frequent = sorted(range(len(files)), key=lambda one: (-int(columns[one].sum()), files[one].stem))[:labels]
    chosen = sorted(frequent)
    has = np.stack([columns[one] for one in chosen], axis=1)
    rows = []
    for row, kept in enumerate(_nus_tags(root / "NUS_WID_Tags", places, tags)):
        if kept and has[row].any():
            rows.append(
                PairRow(
                    f"{list_file.name} line {row + 1}",
                    places[row].rsplit(".", 1)[0],
                    folder / places[row],
                    (" ".join(kept),),
                    tuple(np.flatnonzero(has[row]).tolist()),
                    "database",
                )
            )
    names = [files[one].stem.removeprefix("Labels_") for one in chosen]
    return _write(rows, name, data_dir, size, names, f"NUS-WIDE, {len(names)} labels")


def _nus_tags(folder: Path, places: Sequence[str], size: int) -> Iterator[list[str]]:
    """The kept tags of every picture."""
    matrix, names_file, all_tags = (
        folder / one for one in ("AllTags1k.txt", "TagList1k.txt", "All_Tags.txt")
    )
    names = [_one_word(line) for line in names_file.read_text().splitlines()] if names_file.is_file() else []
    if matrix.is_file() and names:
        count = 0
        with matrix.open() as stream:
            for count, line in enumerate(stream, 1):
                values = line.split()
                if len(values) != len(names):
                    raise ValueError(
                        f"{matrix} line {count}: {len(values)} values; {names_file.name} has {len(names)} tags"
                    )
                yield [names[column] for column, value in enumerate(values) if value != "0"]
                if count == len(places) and next(stream, "").strip():
                    raise ValueError(
                        f"{matrix} has more lines than Imagelist.txt has pictures, {len(places)}"
                    )
        if count != len(places):
            raise ValueError(f"{matrix} has {count} lines; Imagelist.txt has {len(places)} pictures")
        return
    _need(all_tags.is_file(), all_tags, "the tags of each picture (or AllTags1k.txt with TagList1k.txt)")
    by_photo: dict[str, list[str]] = {}
    with all_tags.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            photo, *own = line.split()[:1] + [_one_word(tag) for tag in line.split()[1:]] or [""]
            by_photo.setdefault(photo, list(dict.fromkeys(own)))
    photos = [place.rsplit(".", 1)[0].rsplit("_", 1)[-1] for place in places]
    missing = [place for place, photo in zip(places, photos, strict=True) if photo not in by_photo]
    if missing:
        raise ValueError(f"{all_tags} has no line for {len(missing)} pictures, {missing[0]} first")
    counts = Counter(tag for photo in photos for tag in by_photo[photo])
    kept = set(names or sorted(counts, key=lambda tag: (-counts[tag], tag))[:size])
    for photo in photos:
        yield [tag for tag in by_photo[photo] if tag in kept]


def _binary_column(path: Path, count: int) -> Bool[np.ndarray, " rows"]:
    values = path.read_bytes().split()
    if len(values) != count:
        raise ValueError(f"{path} has {len(values)} values; Imagelist.txt has {count} pictures")
    wrong = next((line for line, value in enumerate(values, 1) if value not in (b"0", b"1")), None)
    if wrong:
        raise ValueError(
            f"{path} line {wrong}: {values[wrong - 1].decode(errors='replace')!r} is neither 0 nor 1"
        )
    return np.array(values) == b"1"


def _write(
    rows: Iterable[PairRow], name: str, data_dir: str | Path, size: int, names: Sequence[str], title: str
) -> PairReport:
    kept = list(rows)
    if not kept:
        raise ValueError(f"no row of {title} has both a label and a kept tag")
    description = f"{title}: pictures, {size} x {size}, tags and labels, prepared by kdhash."
    return write_pairs(kept, name, data_dir, size=size, label_names=names, description=description)


def _one_word(tag: str) -> str:
    # a tag stays one thing in a text of tags divided by spaces
    return "".join(tag.split()).lower()


def _folder(source: str | Path) -> Path:
    root = Path(source)
    _need(root.is_dir(), root, "the folder that holds the published data")
    return root


def _need(there: bool, path: Path, what: str) -> None:
    if not there:
        raise FileNotFoundError(f"{path} is missing: {what}")
