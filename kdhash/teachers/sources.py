"""Weight files as people have them, as a state dict of NumPy arrays."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (teaches NumPy bfloat16, which safetensors needs)
import numpy as np
import safetensors
import safetensors.numpy

from kdhash.teachers.orbax_folder import find_checkpoint, read_checkpoint
from kdhash.teachers.torch_file import read_torch_file

TORCH_SUFFIXES = (".th", ".pth", ".pt", ".bin")
# What a Hugging Face folder may hold, the first that is there is read.
FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
WRAPPERS = ("module.", "model.", "_orig_mod.")  # DataParallel, a trainer, torch.compile


class Source(NamedTuple):
    """A weight file or folder, found but not read."""

    path: Path
    files: tuple[Path, ...]  # that hold the weights; or the one folder of an Orbax checkpoint
    config: Mapping[str, Any]  # of config.json beside them, or {}
    preprocessor: Mapping[str, Any]  # of preprocessor_config.json, or {}


def find_source(weights: str, weights_dir: str | Path = "") -> Source:
    """`weights`: a file, Hugging Face folder or Orbax checkpoint: a path, a name inside `weights_dir` or inside a folder that
    the environment variable KDHASH_WEIGHTS names; or 'hf://owner/name[@revision]'.

    Raises FileNotFoundError that says what to put where.
    """
    if weights.startswith("hf://"):
        return _open(_from_hub(weights))
    folders = [
        folder
        for folder in (weights_dir, *os.environ.get("KDHASH_WEIGHTS", "").split(os.pathsep))
        if str(folder)
    ]
    tried = [Path(folder) / weights for folder in folders] + [Path(weights)]
    for path in tried:
        if path.exists():
            return _open(path)
    raise FileNotFoundError(
        f"no file or folder {' nor '.join(str(path) for path in tried)}; put {weights} there, set weights_dir or "
        "KDHASH_WEIGHTS to the folder that holds it, or name a repository as hf://owner/name"
    )


def read_state(source: Source) -> dict[str, np.ndarray]:
    """{name: array} of all files of a source; wrapping prefixes that all names share are taken off.

    Raises ValueError naming the file that is damaged or of an unknown kind, or the tensor that two files hold.
    """
    state: dict[str, np.ndarray] = {}
    for path in source.files:
        part = _read(path)
        twice = sorted(set(part) & set(state))
        if twice:
            raise ValueError(f"{path}: holds {', '.join(twice[:3])} that another shard holds too")
        state |= part
    if not state:
        raise ValueError(f"{source.path}: holds no tensors")
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): array for name, array in state.items()}
    return state


def weights_hash(source: Source) -> "hashlib._Hash":
    """sha256 over the bytes of all weight files, to be updated with what else makes the teacher."""
    digest = hashlib.sha256()
    for given in source.files:
        for path in sorted(given.rglob("*")) if given.is_dir() else [given]:
            if path.is_file():
                with path.open("rb") as stream:
                    while chunk := stream.read(1 << 22):
                        digest.update(chunk)
    return digest


def _open(path: Path) -> Source:
    if not path.is_dir():
        if path.suffix != ".safetensors" and path.suffix not in TORCH_SUFFIXES:
            raise ValueError(
                f"{path}: unknown kind of weight file; known are .safetensors, {', '.join(TORCH_SUFFIXES)} "
                "folders with config.json, and Orbax checkpoints"
            )
        return Source(path, (path,), {}, {})
    for name in FOLDER_FILES:
        if (path / name).is_file():
            files = tuple(_shards(path / name)) if name.endswith(".index.json") else (path / name,)
            return Source(path, files, _json(path / "config.json"), _json(path / "preprocessor_config.json"))
    checkpoint = find_checkpoint(path)
    if checkpoint is not None:
        return Source(path, (checkpoint,), {}, {})
    raise FileNotFoundError(
        f"{path} holds neither an Orbax checkpoint nor one of {', '.join(FOLDER_FILES)}; download one of them there"
    )


def _shards(index: Path) -> Iterator[Path]:
    for name in sorted(set(_json(index).get("weight_map", {}).values())):
        path = index.parent / name
        if Path(name).name != name or not path.is_file():
            raise FileNotFoundError(
                f"{index} names the shard {name}, which is not beside it; download it there"
            )
        yield path


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return value


def _read(path: Path) -> dict[str, np.ndarray]:
    if path.is_dir():
        return read_checkpoint(path)
    return _read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None


def _from_hub(weights: str) -> Path:
    """The folder of a repository in the hub's cache, downloaded where the network allows."""
    name, _, revision = weights.removeprefix("hf://").partition("@")
    wanted = ["config.json", "preprocessor_config.json", *FOLDER_FILES[:2], "model-*.safetensors"]
    command = f"hf download {name} {'--revision ' + revision + ' ' if revision else ''}--local-dir weights/{Path(name).name}"
    remedy = f"get its files {', '.join(wanted[:3])} where there is a network ('{command}'), and set weights to that folder"
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise FileNotFoundError(
            f"{weights} needs the extra 'hub' (pip install 'kdhash[hub]'); or {remedy}"
        ) from None
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=wanted))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileNotFoundError(
            f"{weights} is not in the hub's cache and could not be fetched ({reason}); {remedy}"
        ) from None
