"""Weight files as people have them, as a state dict of NumPy arrays."""

import hashlib
import json
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (teaches NumPy bfloat16, which safetensors needs)
import numpy as np
import safetensors
import safetensors.numpy

from kdhash.teachers.orbax_folder import find_checkpoint, read_checkpoint
from kdhash.teachers.torch_file import TorchFileError, read_torch_file

TORCH_SUFFIXES = (".th", ".pth", ".pt", ".bin")
# What a Hugging Face folder may hold, the first that is there is read.
FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# What of a hub's repository is downloaded: weights of the first kind that it has, and what tells how to use them.
HUB_WEIGHTS = (
    (*FOLDER_FILES[:2], "model-*.safetensors"),
    (*FOLDER_FILES[2:], "pytorch_model-*.bin"),
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
)
WRAPPERS = ("module.", "model.", "_orig_mod.")  # DataParallel, a trainer, torch.compile


class Source(NamedTuple):
    """A weight file or folder, found but not read."""

    path: Path
    files: tuple[Path, ...]  # that hold the weights; or the one folder of an Orbax checkpoint
    config: Mapping[str, Any]  # of config.json beside them in a Hugging Face folder, or {}
    preprocessor: Mapping[str, Any]  # of preprocessor_config.json, or {}


def find_source(weights: str, weights_dir: str | Path = "") -> Source:
    """`weights`: a file, Hugging Face folder or Orbax checkpoint: a path, a name inside `weights_dir` or inside a folder that
    the environment variable KDHASH_WEIGHTS names; or 'hf://owner/name[@revision]'. A file of a Hugging Face folder comes with
    the folder's config.json and preprocessor_config.json, a file of any other name without.

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
        if path.name in FOLDER_FILES:
            return _described(path, path)
        if path.suffix != ".safetensors" and path.suffix not in TORCH_SUFFIXES:
            raise ValueError(
                f"{path}: unknown kind of weight file; known are .safetensors, {', '.join(TORCH_SUFFIXES)}, "
                "folders with config.json, and Orbax checkpoints"
            )
        return Source(path, (path,), {}, {})
    for name in FOLDER_FILES:
        if (path / name).is_file():
            return _described(path, path / name)
    checkpoint = find_checkpoint(path)
    if checkpoint is not None:
        return Source(path, (checkpoint,), {}, {})
    raise FileNotFoundError(
        f"{path} holds neither an Orbax checkpoint nor one of {', '.join(FOLDER_FILES)}; download one of them there"
    )


def _described(path: Path, weights: Path) -> Source:
    """A Hugging Face folder's weights, with what lies beside them."""
    files = tuple(_shards(weights)) if weights.name.endswith(".index.json") else (weights,)
    folder = weights.parent
    return Source(path, files, _json(folder / "config.json"), _json(folder / "preprocessor_config.json"))


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
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        return read_torch_file(path)
    except TorchFileError:
        if _is_torchscript(path):
            raise ValueError(
                f"{path} is a TorchScript program, not a state dict: where PyTorch is, save torch.jit.load(path).state_dict() "
                "by torch.save; of OpenAI's CLIP take the Hugging Face folder instead, such as "
                "hf://openai/clip-vit-base-patch32"
            ) from None
        raise


def _is_torchscript(path: Path) -> bool:
    """By the names in the archive: a program lies beside the tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, struct.error, RuntimeError, ValueError):
        return False
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None


def _from_hub(weights: str) -> Path:
    """The folder of a repository in the hub's cache, downloaded where the network allows."""
    for kind in HUB_WEIGHTS:
        folder = hub_folder(weights, ("config.json", "preprocessor_config.json", *kind, *TOKENIZER_FILES))
        if any((folder / name).is_file() for name in FOLDER_FILES):
            return folder
    raise FileNotFoundError(f"{weights} holds none of {', '.join(FOLDER_FILES)}; name another repository")


def hub_folder(repository: str, wanted: tuple[str, ...]) -> Path:
    """The folder of 'hf://owner/name[@revision]' in the hub's cache; those of the `wanted` files (patterns) that the repository
    has are downloaded into it where the network allows. Raises FileNotFoundError that says what to do."""
    name, _, revision = repository.removeprefix("hf://").partition("@")
    command = f"hf download {name} {'--revision ' + revision + ' ' if revision else ''}--local-dir weights/{Path(name).name}"
    remedy = f"download it where there is a network ('{command}'), and give that folder instead"
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise FileNotFoundError(
            f"{repository} needs the extra 'hub' (pip install 'kdhash[hub]'); or {remedy}"
        ) from None
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(wanted)))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileNotFoundError(
            f"{repository} is not in the hub's cache and could not be fetched ({reason}); {remedy}"
        ) from None
