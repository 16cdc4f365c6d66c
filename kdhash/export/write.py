"""A model folder, written: under a temporary name, each artefact compared with the trained network, then renamed."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy
from jaxtyping import Array

from kdhash.export import check
from kdhash.export.model import (
    CARD_FILE,
    MODEL_FILE,
    TEXTS,
    WEIGHTS_FILE,
    Facts,
    file_sha256,
    load_model,
    read_model,
)
from kdhash.export.model_card import model_card
from kdhash.export.network import nested, picture_codes, text_codes
from kdhash.export.onnx import write_onnx
from kdhash.export.runs import Student, read_student
from kdhash.export.stablehlo import write_stablehlo


class Program(NamedTuple):
    """What an artefact computes: codes of [batch, *width] of `dtype`."""

    name: str  # 'image' or 'text'
    codes: Callable[[Array], Array]
    width: tuple[int, ...]
    dtype: Any


def export_run(
    run: str | Path,
    out: str | Path,
    *,
    row: str | None = None,
    seed: int | None = None,
    weights_dir: str | Path = "weights",
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    alone: bool = False,
    onnx: bool | None = None,
) -> Facts:
    """Writes the model folder `out` of one row of the run in `run`; `row` to `alone` are `read_student`'s.

    `data_dir`: where the data set lies, so that its own pictures are checked too ('digits' needs none). `onnx`: False leaves
    ONNX files out, True insists on them, None takes them where the extra is installed and the network can be expressed.
    Raises FileExistsError where `out` is there, ValueError where an artefact is not the trained network, and as
    `read_student` and `load_dataset` do; then nothing is left behind.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} already exists; remove it first, or choose another folder")
    student = read_student(
        run, row=row, seed=seed, weights_dir=weights_dir, image_size=image_size, alone=alone
    )
    own = check.own_examples(student.document["facts"], student.document["picture"]["size"], data_dir)
    out.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        document = _write(workshop, student, onnx)
        document["checks"] = list(_checks(workshop, student, *own))
        _write_json(workshop / MODEL_FILE, document)
        (workshop / CARD_FILE).write_text(model_card(document, out.name), "utf-8")
        for path in (workshop, *workshop.rglob("*")):
            os.chmod(path, 0o755 if path.is_dir() else 0o644)
        os.rename(workshop, out)
    except BaseException:
        shutil.rmtree(workshop, ignore_errors=True)
        raise
    return read_model(out)


def _write(folder: Path, student: Student, onnx: bool | None) -> dict[str, Any]:
    """All files but the card, model.json last, without checks."""
    safetensors.numpy.save_file(student.arrays, folder / WEIGHTS_FILE)
    if student.texts:
        (folder / TEXTS).mkdir()
        for name, path in student.texts.items():
            shutil.copyfile(path, folder / TEXTS / name)
    programs = list(_programs(student))
    for program in programs:
        path = folder / f"{program.name}.stablehlo"
        write_stablehlo(path, program.codes, program.width, program.dtype)
    left_out = _write_onnx(folder, programs, student.document["network"], onnx)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    document = student.document | {
        "left_out": left_out,
        "checks": [],
        "files": {
            path.relative_to(folder).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": file_sha256(path),
            }
            for path in files
        },
    }
    _write_json(folder / MODEL_FILE, document)
    return document


def _programs(student: Student) -> Iterator[Program]:
    network, variables = student.document["network"], nested(student.arrays)
    size = student.document["picture"]["size"]
    yield Program("image", partial(picture_codes, network, variables), (size, size, 3), np.uint8)
    if "text" in network:
        text = network["text"]
        width, dtype = (text["width"], np.float32) if text["reads"] == "words" else (text["length"], np.int32)
        yield Program("text", partial(text_codes, network, variables), (width,), dtype)


def _write_onnx(
    folder: Path, programs: list[Program], network: dict[str, Any], wanted: bool | None
) -> dict[str, str]:
    """Writes what can be; of each file that is left out, the reason."""
    left_out: dict[str, str] = {}
    for program in programs:
        name = f"{program.name}.onnx"
        if wanted is False:
            left_out[name] = "it was not asked for"
            continue
        try:
            dtype = _dtype(network[program.name])
            if dtype != "float32":
                raise ValueError(f"the network computes in {dtype}, ONNX files in float32")
            write_onnx(folder / name, program.name, program.codes, program.width, program.dtype)
        except (ValueError, ImportError) as error:
            if wanted:
                raise
            left_out[name] = str(error)
    return left_out


def _checks(
    folder: Path, student: Student, own_pictures: np.ndarray | None, own_texts: list[str]
) -> Iterator[dict[str, Any]]:
    """Each engine's codes against the trained network's."""
    network = student.document["network"]
    examples: list[tuple[str, str, Any]] = [
        ("image", "random pictures", check.random_pictures(student.document["picture"]["size"]))
    ]
    if own_pictures is not None:
        examples.append(("image", "pictures of the data set", own_pictures))
    if student.text_logits:
        examples.append(("text", "texts of random words", check.random_texts(student.texts)))
        if own_texts:
            examples.append(("text", "texts of the data set", own_texts))
    trained = {"image": student.picture_logits, "text": student.text_logits}
    with jax.default_matmul_precision("highest"):  # as artefacts compute: on a CPU all do
        said = [(part, what, given, trained[part](given)) for part, what, given in examples]  # type: ignore[misc]
    written = {path.name for path in folder.iterdir()}
    for engine, ending in (("jax", WEIGHTS_FILE), ("stablehlo", ".stablehlo"), ("onnx", ".onnx")):
        if engine == "onnx" and "image.onnx" not in written:
            continue
        model = load_model(folder, engine=engine)
        for part, what, given, logits in said:
            if engine == "onnx" and f"{part}.onnx" not in written:
                continue
            codes = model.encode_pictures(given) if part == "image" else model.encode_texts(given)
            artefact = ending if engine == "jax" else part + ending
            yield check.compare(artefact, logits, codes, _dtype(network[part])) | {"on": what}


def _dtype(part: dict[str, Any]) -> str:
    """What a part of the network computes in."""
    return part["backbone"]["dtype"] if "backbone" in part else "float32"


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
