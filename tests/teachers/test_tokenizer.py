"""CLIP's tokens on a vocabulary of a few words, by hand and against transformers."""

import json

import numpy as np
import pytest

from kdhash.teachers.tokenizer import END, START, load_tokenizer
from tests.teachers.families.parity import need

MERGES = ["c a", "ca t</w>", "d o", "do g</w>", "a t"]
SYMBOLS = "abcdgot'!1é"


@pytest.fixture
def folder(tmp_path):
    """Bytes with and without the mark of a word's end, the merges, the two special tokens."""
    characters = [*SYMBOLS[:-1], "Ã", "©"]  # é is two bytes, which byte-level encoding writes so
    words = [*characters, *(f"{c}</w>" for c in characters), "ca", "cat</w>", "do", "dog</w>", "at"]
    vocabulary = {word: number for number, word in enumerate([*words, START, END])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    return tmp_path


def ids(folder, *words):
    vocabulary = json.loads((folder / "vocab.json").read_text())
    return [vocabulary[word] for word in words]


def test_words_are_lower_cased_split_and_merged(folder):
    encode = load_tokenizer(folder, length=8)
    expected = ids(folder, START, "cat</w>", "!</w>", "dog</w>", "1</w>", "1</w>", END, END)
    assert encode(["CAT!  dog\n11"])[0].tolist() == expected


def test_a_long_text_keeps_its_end_mark(folder):
    codes = load_tokenizer(folder, length=4)(["cat cat cat cat cat", "dog"])
    assert codes.tolist() == [
        ids(folder, START, "cat</w>", "cat</w>", END),
        ids(folder, START, "dog</w>", END, END),
    ]
    assert codes.dtype == np.int32
    assert load_tokenizer(folder, length=4)([]).shape == (0, 4)


@pytest.mark.parametrize(
    "config", [{}, {"pad_token": None}, {"pad_token": {"content": None}}, {"pad_token": END}]
)
def test_without_a_padding_token_texts_are_filled_up_with_the_end_mark(folder, config):
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(folder, length=4)(["dog"]).tolist() == [ids(folder, START, "dog</w>", END, END)]


def test_a_repository_is_read_as_its_folder(folder, monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="needs the extra 'hub'")

    def snapshot_download(name, *, revision, allow_patterns):
        assert (name, revision) == ("owner/name", None)
        assert {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"} <= set(allow_patterns)
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    expected = load_tokenizer(folder, length=8)(["a cat"])
    np.testing.assert_array_equal(load_tokenizer("hf://owner/name", length=8)(["a cat"]), expected)


def test_equals_transformers(folder):
    need("transformers")
    from transformers import CLIPTokenizer

    reference = CLIPTokenizer(
        vocab=json.loads((folder / "vocab.json").read_text()),
        merges=[tuple(merge.split()) for merge in MERGES],
    )
    texts = ["a cat, a dog", "Catdog's   dot", "até 111 !!!", "", "bad taco god cat dog cat dog"]
    expected = reference(texts, padding="max_length", truncation=True, max_length=12)["input_ids"]
    np.testing.assert_array_equal(load_tokenizer(folder, length=12)(texts), expected)
    reference.save_pretrained(folder / "saved")  # as a tokenizer.json
    np.testing.assert_array_equal(load_tokenizer(folder / "saved", length=12)(texts), expected)


def test_what_is_missing_or_damaged_is_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds neither tokenizer\.json"):
        load_tokenizer(tmp_path / "empty")
    with pytest.raises(TypeError, match="list of texts"):
        load_tokenizer(folder)("a cat")
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    with pytest.raises(ValueError, match=r"'\[PAD\]' is not in the vocabulary"):
        load_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": 3}))
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: pad_token is 3; it must be a string"):
        load_tokenizer(folder)
    (folder / "vocab.json").write_text(json.dumps({"a": 0}))
    with pytest.raises(ValueError, match="no readable byte-pair encoding|not CLIP's vocabulary"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="not a readable tokenizer"):
        load_tokenizer(folder)
