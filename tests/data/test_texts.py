"""Words, vocabularies, word vectors, and the encoder of texts."""

import json

import numpy as np
import pytest

from kdhash.data import (
    TextFeatures,
    WordVectors,
    average_vectors,
    count_words,
    fit_vocabulary,
    load_pairs,
    load_word_vectors,
    tokenize,
)

TEXTS = ["A dog runs, a dog jumps.", "The cat sleeps", "Dog and cat", "bird"]
VECTORS = WordVectors(("dog", "cat", "bird", "fish"), np.eye(4, 3, dtype=np.float32) + 1)


def test_tokenize():
    assert tokenize("A man's DOG\u2019s 2nd_ball -- rock'n'roll, 'quoted' \u00c9t\u00e9!") == [
        "a", "man's", "dog's", "2nd", "ball", "rock'n'roll", "quoted", "\u00e9t\u00e9",
    ]  # fmt: skip
    assert tokenize("E\u0301te\u0301") == ["\u00e9t\u00e9"]  # the same letters, composed otherwise
    assert tokenize(" .,-'_ ") == []


def test_vocabulary():
    words = fit_vocabulary(TEXTS, size=10)
    assert words.words == ("dog", "cat", "bird", "jumps", "runs", "sleeps")
    assert fit_vocabulary(TEXTS, size=2).words == ("dog", "cat")
    assert fit_vocabulary(TEXTS, size=9, min_count=2).words == ("dog", "cat")
    assert fit_vocabulary(TEXTS, size=3, stop_words=()).words == ("dog", "a", "cat")
    with pytest.raises(ValueError, match="no word of 1 texts occurs 1 times"):
        fit_vocabulary(["the"], size=5)
    with pytest.raises(ValueError, match="must be at least 1"):
        fit_vocabulary(TEXTS, size=0)


def test_count_words():
    counts = count_words(TEXTS, fit_vocabulary(TEXTS, size=2))
    assert counts.dtype == np.float32
    assert counts.tolist() == [[2, 0], [0, 1], [1, 1], [0, 0]]
    assert count_words([], fit_vocabulary(TEXTS, size=2)).shape == (0, 2)


def test_average_vectors():
    means = average_vectors(["dog dog cat", "unknown", ""], VECTORS)
    np.testing.assert_allclose(means[0], [5 / 3, 4 / 3, 1], rtol=1e-6)
    assert not means[1:].any()
    only_cat = average_vectors(["dog cat"], VECTORS, stop_words={"dog"})
    assert only_cat.tolist() == [[1, 2, 1]]


def test_glove_text(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("dog 1 2 3\ncat 4 5 6\n. . . 7 8 9\ndog 0 0 0\n", "utf-8")
    loaded = load_word_vectors(path)
    assert loaded.words == ("dog", "cat", ". . .")
    assert loaded.vectors.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert load_word_vectors(path, words={"cat"}).words == ("cat",)
    path.write_text("2 3\ndog 1 2 3\ncat 4 5 6\n")  # word2vec's header
    assert load_word_vectors(path).words == ("dog", "cat")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("dog 1 2 3\ncat 4 5\n", r"glove.txt line 2: 2 numbers for 'cat'; the first line has 3"),
        ("dog 1 2\ncat 4 5 6\n", r"line 2: 3 numbers for 'cat'"),
        ("dog 1 2\ncat 4 x\n", r"line 2: could not convert"),
        ("dog 1 2\ncat 4 nan\n", r"line 2: values that are not finite for 'cat'"),
        ("dog 1 2\ncat\n", r"line 2: 'cat\\n' is no word with its numbers"),
        ("", r"glove.txt holds no word vectors"),
    ],
)
def test_wrong_glove_text(tmp_path, lines, message):
    (tmp_path / "glove.txt").write_text(lines)
    with pytest.raises(ValueError, match=message):
        load_word_vectors(tmp_path / "glove.txt")


def test_wrong_vector_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no word vectors at"):
        load_word_vectors(tmp_path / "none.txt")
    np.savez(tmp_path / "a.npz", tokens=["a"])
    with pytest.raises(ValueError, match="has tokens; 'words' and 'vectors' are needed"):
        load_word_vectors(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", words=["a", "b"], vectors=[[1.0], [np.inf]])
    with pytest.raises(ValueError, match="'vectors' of 'b' has values that are not finite"):
        load_word_vectors(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", words=["a", "b"], vectors=[[1.0]])
    with pytest.raises(ValueError, match="2 words and vectors of shape"):
        load_word_vectors(tmp_path / "c.npz")


def test_binary_words():
    encoder = TextFeatures.fit(TEXTS, size=2, weighting="binary")
    encoded = encoder.encode(["dog dog cat", "dog", "zebra"])
    np.testing.assert_allclose(encoded, [[0.5**0.5, 0.5**0.5], [1, 0], [0, 0]], rtol=1e-6)


def test_log_idf_words():
    encoder = TextFeatures.fit(TEXTS, size=3)
    assert encoder.width == 3
    idf = np.log(5 / (1 + np.array([2, 2, 1]))) + 1  # dog, cat, bird: in 2, 2, 1 of 4 texts
    wanted = np.log1p([2, 0, 1]) * idf
    np.testing.assert_allclose(
        encoder.encode(["dog dog bird"])[0], wanted / np.linalg.norm(wanted), rtol=1e-6
    )


def test_both_kinds(tmp_path):
    encoder = TextFeatures.fit(TEXTS, kinds=("vectors", "words"), size=4, vectors=VECTORS)
    assert encoder.vectors.words == ("dog", "cat", "bird")
    assert encoder.width == 7
    encoded = encoder.encode([*TEXTS, "fish"])
    np.testing.assert_allclose(np.linalg.norm(encoded[:4, :3], axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(encoded[:4, 3:], axis=1), 1, rtol=1e-6)
    assert not encoded[4].any()
    wide = TextFeatures.fit(TEXTS, kinds=("vectors",), vectors=VECTORS, all_vectors=True)
    assert wide.encode(["fish"]).any()
    for fitted in (encoder, wide):
        folder = tmp_path / str(fitted.width)
        fitted.save(folder)
        again = TextFeatures.load(folder)
        assert again.encode(TEXTS).tobytes() == fitted.encode(TEXTS).tobytes()
        assert again.stop_words == fitted.stop_words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "7"]


def test_encoders_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="give 'words', 'vectors' or both"):
        TextFeatures.fit(TEXTS, kinds=("letters",))
    with pytest.raises(ValueError, match="needs vectors"):
        TextFeatures.fit(TEXTS, kinds=("vectors",))
    with pytest.raises(ValueError, match="none of the words of 1 texts has a vector"):
        TextFeatures.fit(["zebra"], kinds=("vectors",), vectors=VECTORS)
    with pytest.raises(ValueError, match="give 'binary' or 'log-idf'"):
        TextFeatures.fit(TEXTS, weighting="tf")
    with pytest.raises(FileNotFoundError, match="no text encoder at"):
        TextFeatures.load(tmp_path)
    folder = tmp_path / "a"
    encoder = TextFeatures.fit(TEXTS)
    encoder.save(folder)
    with pytest.raises(FileExistsError):
        encoder.save(folder)
    about = json.loads((folder / "text_features.json").read_text())
    (folder / "text_features.json").write_text(json.dumps(about | {"vocabulary": ["dog"]}))
    with pytest.raises(ValueError, match="do not belong together"):
        TextFeatures.load(folder)
    (folder / "text_features.json").write_text(json.dumps(about | {"format": 9}))
    with pytest.raises(ValueError, match="has format 9"):
        TextFeatures.load(folder)


def test_flickr8k_captions(shared):
    pairs = load_pairs("flickr8k_128", shared / "data")
    vectors = load_word_vectors(shared / "data" / "glove_twitter_25d.npz")
    assert vectors.vectors.shape == (11925, 25)
    joined = [" ".join(texts) for texts in pairs.texts]
    database, query = (pairs.splits[split] for split in ("database", "query"))
    training = [joined[row] for row in database]
    encoder = TextFeatures.fit(training, kinds=("words", "vectors"), size=500, vectors=vectors)
    assert {"man", "dog", "water"} < set(encoder.vocabulary.words[:20])
    encoded = encoder.encode([joined[row] for row in query])
    assert encoded.shape == (1000, 525)
    # nearest captions of other pictures share labels far more often than any two pictures do
    nearest = (encoded @ encoder.encode(training).T).argmax(axis=1)
    labels = pairs.labels.astype(int)
    shares = (labels[query] * labels[database][nearest]).any(axis=1).mean()
    any_two = ((labels[query] @ labels[database].T) > 0).mean()
    assert shares > 0.8 > 0.6 > any_two
