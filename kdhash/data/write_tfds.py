"""Writing pictures, with labels or texts, as a TFDS ArrayRecord folder, without TensorFlow, and all or nothing."""

import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Example = tuple[int | str, dict[str, Any]]  # key (decides the stored order), features


def write_dataset(
    data_dir: str | Path,
    name: str,
    version: str,
    *,
    image_shape: tuple[int, int, int],
    label_names: Mapping[str, Sequence[str]],
    splits: Mapping[str, Iterable[Example]],
    about: Mapping[str, str],
    text_lists: Sequence[str] = (),
    label_lists: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Writes `data_dir`/`name`/`version`, features id, image and those of `label_names`; returns the folder.

    `splits` yield (key, {'id': str, 'image': encoded bytes, <label>: int}); TFDS stores examples in the order
    of a hash of their keys. `about` may hold description, homepage and citation. `text_lists` and `label_lists`
    name further features of any length: lists of str, and lists of int with the names of their classes.
    Everything is written to a temporary folder in `data_dir`, which is renamed at the end, or removed where
    anything fails. Raises FileExistsError where the folder is already there.
    """
    import tensorflow_datasets as tfds

    root = Path(data_dir)
    target = root / name / version
    if target.exists():
        raise FileExistsError(f"{target} already exists; remove it first, or choose another name or data_dir")

    def info(self: Any) -> Any:
        features = {"id": tfds.features.Text(), "image": tfds.features.Image(shape=image_shape)}
        for label, names in label_names.items():
            features[label] = tfds.features.ClassLabel(names=list(names))
        for text in text_lists:
            features[text] = tfds.features.Sequence(tfds.features.Text())
        for label, names in (label_lists or {}).items():
            features[label] = tfds.features.Sequence(tfds.features.ClassLabel(names=list(names)))
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label") if "label" in features else None,
            **about,
        )

    def split_generators(self: Any, dl_manager: Any) -> dict[str, Iterable[Example]]:
        return dict(splits)

    members = {
        "VERSION": tfds.core.Version(version),
        "name": name,
        "__module__": __name__,
        "_info": info,
        "_split_generators": split_generators,
        "_generate_examples": None,
    }
    root.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".preparing-{name}-", dir=root))
    try:
        # the registered sets have the same names, and this class is of no use to anybody else
        with tfds.core.registered.skip_registration():
            builder_class = type(name, (tfds.core.GeneratorBasedBuilder,), members)
        builder = builder_class(data_dir=workshop, file_format="array_record")
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        config = tfds.download.DownloadConfig(try_download_gcs=False, compute_stats="skip")
        with contextlib.redirect_stdout(io.StringIO()):  # it names the temporary folder
            builder.download_and_prepare(download_config=config)
        target.parent.mkdir(exist_ok=True)
        os.rename(workshop / name / version, target)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return target


def encode_png(picture: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Lossless PNG bytes of an RGB picture."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
