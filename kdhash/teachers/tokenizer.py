"""Texts to token ids, as the published text towers were trained on them; needs the extra 'text'."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from kdhash.teachers.sources import TOKENIZER_FILES, hub_folder

START, END = "<|startoftext|>", "<|endoftext|>"
# CLIP's words: its two marks, English clitics, runs of letters, single digits, runs of anything else.
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

Encode = Callable[[Sequence[str]], Int32[np.ndarray, "batch length"]]


def load_tokenizer(folder: str | Path, *, length: int = 77) -> Encode:
    """The function from texts to ids [batch, length] of a Hugging Face folder, or of 'hf://owner/name[@revision]': of its
    tokenizer.json, or of CLIP's byte-pair encoding in vocab.json and merges.txt.

    A longer text is cut so that its end mark stays; a shorter one is filled up with the padding token. Raises
    FileNotFoundError for a folder or repository without these files, ValueError for damaged ones, ImportError without the extra.
    """
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        raise ImportError("reading texts needs the extra 'text': pip install 'kdhash[text]'") from None
    if isinstance(folder, str) and folder.startswith("hf://"):
        folder = hub_folder(folder, TOKENIZER_FILES)
    folder = Path(folder)
    if (folder / "tokenizer.json").is_file():
        tokenizer = _from_json(folder / "tokenizer.json")
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        tokenizer = _clip(folder / "vocab.json", folder / "merges.txt")
    else:
        raise FileNotFoundError(
            f"{folder} holds neither tokenizer.json nor vocab.json and merges.txt; download them there"
        )
    pad = _padding_token(folder)
    if tokenizer.token_to_id(pad) is None:
        raise ValueError(f"{folder}: the padding token {pad!r} is not in the vocabulary")
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=tokenizer.token_to_id(pad), pad_token=pad)

    def encode(texts: Sequence[str]) -> Int32[np.ndarray, "batch length"]:
        if isinstance(texts, str):
            raise TypeError("give a list of texts, not one string")
        ids = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
        return np.array(ids, dtype=np.int32).reshape(-1, length)

    return encode


def _from_json(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path} is not a readable tokenizer ({error})") from None


def _clip(vocabulary: Path, merges: Path) -> Any:
    """Radford et al. 2021: lower-cased byte-pair encoding, each text between a start and an end mark."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    try:
        model = models.BPE.from_file(
            str(vocabulary),
            str(merges),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=END,
        )
    except Exception as error:  # the library raises bare Exception
        raise ValueError(
            f"{vocabulary} and {merges.name} are no readable byte-pair encoding ({error})"
        ) from None
    tokenizer = Tokenizer(model)
    missing = [mark for mark in (START, END) if tokenizer.token_to_id(mark) is None]
    if missing:
        raise ValueError(f"{vocabulary} lacks {' and '.join(missing)}; it is not CLIP's vocabulary")
    tokenizer.add_special_tokens([START, END])
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $0 {END}", special_tokens=marks)
    return tokenizer


def _padding_token(folder: Path) -> str:
    """What tokenizer_config.json says, or CLIP's end mark."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return END
    try:
        token = json.loads(path.read_text()).get("pad_token")
    except (ValueError, AttributeError):
        raise ValueError(f"{path} is not a JSON object") from None
    if isinstance(token, dict):
        token = token.get("content")
    if token is None:
        return END
    if not isinstance(token, str):
        raise ValueError(
            f"{path}: pad_token is {token!r}; it must be a string, or an object with its 'content'"
        )
    return token
