"""Image-text pairs from TFDS folders and from files of ready features."""

import builtins

import numpy as np
import pytest
from scipy.io import savemat

from kdhash.data import load_pairs
from kdhash.data.pair_features import _words
from kdhash.data.write_tfds import encode_png, write_dataset

RANDOM = np.random.default_rng(0)
IMAGE, TEXT = RANDOM.normal(size=(12, 5)), RANDOM.random((12, 7))
HOT = RANDOM.random((12, 3)) < 0.4
CLASSES = np.arange(12) % 4 + 1


def write_folder(data_dir, name="tiny", *, ids=None, captions=("A dog .", "Two dogs ."), labels=True):
    picture = encode_png(np.full((8, 8, 3), 7, np.uint8))
    examples = [
        {"id": ids(row) if ids else f"p{row}", "image": picture, "captions": list(captions)}
        | ({"labels": [0, 2] if row % 2 else []} if labels else {})
        for row in range(6)
    ]
    write_dataset(
        data_dir,
        name,
        "1.0.0",
        image_shape=(8, 8, 3),
        label_names={},
        splits={"query": enumerate(examples[:2]), "database": enumerate(examples[2:])},
        about={},
        text_lists=["captions"],
        label_lists={"labels": ["a", "b", "c"]} if labels else None,
    )


def test_tfds_folder(tmp_path):
    write_folder(tmp_path, captions=("A dog .", " ", "Two dogs ."))
    pairs = load_pairs("tiny", tmp_path)
    assert len(pairs) == 6
    assert pairs.splits == {"database": range(4), "query": range(4, 6)}
    assert sorted(pairs.ids) == [f"p{row}" for row in range(6)]
    assert pairs.texts[0] == ("A dog .", "Two dogs .")
    assert pairs.label_names == ("a", "b", "c")
    odd = np.array([int(name[1:]) % 2 for name in pairs.ids])
    assert (pairs.labels == odd[:, None] * [True, False, True]).all()
    assert pairs.images[np.array([5, 0])].shape == (2, 8, 8, 3)
    assert pairs.image_features is None
    assert load_pairs("tiny", tmp_path).fingerprint == pairs.fingerprint
    small = load_pairs("tiny", tmp_path, image_size=4)
    assert small.images.image_shape == (4, 4, 3)
    assert small.fingerprint != pairs.fingerprint


def test_tfds_without_labels_and_with_ids_of_each_split(tmp_path):
    write_folder(tmp_path, labels=False, ids=lambda row: str(row % 4 if row >= 2 else row))
    pairs = load_pairs("tiny", tmp_path)
    assert pairs.labels is None
    assert pairs.label_names == ()
    assert {name.split("/")[0] for name in pairs.ids} == {"database", "query"}


def write_tagged(data_dir, tags, label_names=None):
    picture = encode_png(np.full((8, 8, 3), 7, np.uint8))
    examples = [
        (row, {"id": f"p{row}", "image": picture, "captions": ["A dog ."], "tags": given})
        for row, given in enumerate(tags)
    ]
    for _, example in examples if label_names else []:
        example["label"] = 1
    write_dataset(
        data_dir,
        "tagged",
        "1.0.0",
        image_shape=(8, 8, 3),
        label_names={"label": label_names} if label_names else {},
        splits={"train": examples},
        about={},
        text_lists=["captions", "tags"],
    )


def test_tags_that_are_texts_are_labels(tmp_path, monkeypatch):
    write_tagged(tmp_path, [["sea", "dog "], ["cat", "dog", "dog"], [], [" "], ["sea"]])
    pairs = load_pairs("tagged", tmp_path)
    assert pairs.label_names == ("cat", "dog", "sea")
    found = dict(zip(pairs.ids, pairs.labels.astype(int).tolist(), strict=True))
    assert found == {"p0": [0, 1, 1], "p1": [1, 1, 0], "p2": [0, 0, 0], "p3": [0, 0, 0], "p4": [0, 0, 1]}
    monkeypatch.setattr("kdhash.data.pairs.MOST_LABELS", 2)
    with pytest.warns(UserWarning, match=r"'tags' has 3 different texts; labels are the 2 most frequent"):
        pairs = load_pairs("tagged", tmp_path)
    assert pairs.label_names == ("dog", "sea")
    assert pairs.labels.sum(axis=0).tolist() == [2, 2]


def test_texts_change_the_fingerprint_and_class_labels_come_before_them(tmp_path):
    write_tagged(tmp_path / "a", [["sea"], ["dog"]])
    write_tagged(tmp_path / "b", [["sea"], ["cat"]])
    write_tagged(tmp_path / "c", [["sea"], ["dog"]], label_names=("no", "yes"))
    write_tagged(tmp_path / "d", [[], []])
    found = {name: load_pairs("tagged", tmp_path / name) for name in "abcd"}
    assert found["a"].fingerprint != found["b"].fingerprint
    assert found["c"].label_names == ("no", "yes")
    assert found["c"].labels.tolist() == [[False, True]] * 2
    assert found["d"].labels is None  # nobody has written any


def test_tfds_that_cannot_be_read(tmp_path, write_random):
    write_folder(tmp_path, "twice", ids=lambda row: "same")
    with pytest.raises(ValueError, match=r"split 'database' has values of 'id' twice: 'same'"):
        load_pairs("twice", tmp_path)
    write_folder(tmp_path, "silent", captions=(" ",))
    with pytest.raises(ValueError, match=r"row 'p\d' of split 'database' has no text in 'captions'"):
        load_pairs("silent", tmp_path)
    write_random(tmp_path, "untold", sizes={"train": 2})
    with pytest.raises(
        ValueError, match=r"one of 'captions', 'caption', 'text' .*it has: .*label \(ClassLabel\)"
    ):
        load_pairs("untold", tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"no data set 'other' .*there: silent, twice, untold.*prepare pairs"
    ):
        load_pairs("other", tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_pairs("other", tmp_path / "nowhere")


def test_pairs_serve_as_pictures_of_the_feature_cache(tmp_path):
    import jax
    from jax.sharding import Mesh

    from kdhash.teachers import cache
    from kdhash.teachers.extract import fill_cache
    from kdhash.teachers.preprocessing import Preprocessing
    from kdhash.teachers.registry import Teacher

    def apply(variables, images):
        return {"features": images.mean(axis=(1, 2))}

    write_folder(tmp_path)
    pairs = load_pairs("tiny", tmp_path)
    wanted = Preprocessing(size=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    teacher = Teacher("means", apply, {}, 3, None, "identity", 0, wanted, {})
    mesh = Mesh(np.asarray(jax.devices()[:1]), ("data",))
    folders, _ = fill_cache(teacher, pairs, ("original",), tmp_path / "cache", mesh=mesh, batch_size=4)
    assert cache.read(folders["original"])["features"].shape == (6, 3)


@pytest.mark.parametrize(
    "names",
    [
        ("image_{}", "text_{}", "label_{}", "train", "query"),
        ("I_{}", "T_{}", "L_{}", "tr", "te"),
        ("{}_imgs_deep", "{}_texts_doc", "{}_imgs_labels", "train", "test"),
        ("X{}", "Y{}", "{}L", "Database", "Test"),
    ],
)
def test_keys_of_splits(tmp_path, names):
    image, text, label, first, second = names
    arrays = {}
    for split, rows in ((first, slice(0, 8)), (second, slice(8, 12))):
        lower = split.lower() if label == "{}L" else split
        arrays |= {
            image.format(split): IMAGE[rows],
            text.format(split): TEXT[rows],
            label.format(lower): HOT[rows],
        }
    np.savez(tmp_path / "a.npz", **arrays, other_things=np.ones(3))
    pairs = load_pairs("a", tmp_path)
    assert [len(rows) for rows in pairs.splits.values()] == [8, 4]
    np.testing.assert_array_equal(pairs.image_features, IMAGE.astype(np.float32))
    np.testing.assert_array_equal(pairs.text_features, TEXT.astype(np.float32))
    np.testing.assert_array_equal(pairs.labels, HOT)
    assert pairs.texts is None
    assert len(set(pairs.ids)) == 12


@pytest.mark.parametrize("keys", [("XAll", "YAll", "LAll"), ("images", "tags", "labels"), ("I", "T", "L")])
def test_matlab_v5(tmp_path, keys):
    savemat(tmp_path / "a.mat", dict(zip(keys, (IMAGE, TEXT, HOT.astype(float)), strict=True)))
    pairs = load_pairs("a.mat", tmp_path)
    assert pairs.splits == {"all": range(12)}
    np.testing.assert_array_equal(pairs.labels, HOT)
    assert pairs.label_names == ("0", "1", "2")
    turned = dict(zip(keys, (IMAGE.T, TEXT.T, CLASSES[None]), strict=True))
    savemat(tmp_path / "b.mat", turned)  # columns are pairs, class numbers
    other = load_pairs("b", tmp_path)
    np.testing.assert_array_equal(other.image_features, pairs.image_features)
    assert other.label_names == ("1", "2", "3", "4")
    np.testing.assert_array_equal(other.labels.argmax(1) + 1, CLASSES)
    assert other.fingerprint != pairs.fingerprint


def test_matlab_v73(tmp_path):
    h5py = pytest.importorskip("h5py")
    pictures = RANDOM.integers(0, 256, (12, 6, 4, 3), np.uint8)

    def write(file, key, array):
        # as MATLAB: axes from the other end
        stored = file.create_dataset(key, data=np.ascontiguousarray(array.T))
        stored.attrs["MATLAB_class"] = np.bytes_("double")

    (tmp_path / "mir/IAll").mkdir(parents=True)
    with h5py.File(tmp_path / "mir/IAll/iall.mat", "w", userblock_size=512) as file:
        write(file, "IAll", np.moveaxis(pictures, 0, 3))  # h w 3 rows
        file.create_group("#refs#")
    with h5py.File(tmp_path / "mir/rest.mat", "w", userblock_size=512) as file:
        write(file, "YAll", TEXT)
        write(file, "LAll", HOT.astype(float))
    pairs = load_pairs("mir", tmp_path)
    assert pairs.image_features is None
    np.testing.assert_array_equal(pairs.images[np.arange(12)], pictures)
    np.testing.assert_array_equal(pairs.labels, HOT)
    np.testing.assert_array_equal(pairs.text_features, TEXT.astype(np.float32))
    assert load_pairs("mir", tmp_path, image_size=4).images.image_shape == (4, 4, 3)


def test_matlab_v73_without_h5py(tmp_path, monkeypatch):
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3".ljust(512) + b"\x89HDF\r\n\x1a\n")
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "h5py":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"needs h5py: pip install 'kdhash\[mat\]'"):
        load_pairs("a", tmp_path)


@pytest.mark.parametrize(
    ("key", "meaning"),
    [
        ("IAll", ("image", "all")),
        ("XALL", ("image", "all")),
        ("lall", ("label", "all")),
        ("T_tr_BOW", ("text", "train")),
        ("I_db", ("image", "database")),
        ("ImgDataBase", ("image", "database")),
        ("tr_img_lab", ("label", "train")),
        ("train_texts_labels", ("label", "train")),
        ("VTest", ("image", "test")),
        ("text_query", ("text", "query")),
        ("label_valid", ("label", "validation")),
        ("y_te", ("y", "test")),
        ("FAll", None),
        ("param", None),
        ("train_texts_idx", None),  # numbers of words, not features
        ("I_tr_te", None),
        ("images_tags", None),
    ],
)
def test_words_of_keys(key, meaning):
    assert _words(key) == meaning


def test_training_rows_that_are_in_the_database_too(tmp_path):
    arrays = {}
    for split, rows in (("tr", slice(0, 4)), ("db", slice(0, 9)), ("te", slice(9, 12))):
        arrays |= {f"I_{split}": IMAGE[rows], f"T_{split}": TEXT[rows], f"L_{split}": HOT[rows]}
    np.savez(tmp_path / "a.npz", **arrays)
    pairs = load_pairs("a", tmp_path)
    assert pairs.splits == {"train": range(4), "database": range(4, 9), "test": range(9, 12)}
    np.testing.assert_array_equal(pairs.image_features, IMAGE.astype(np.float32))
    savemat(tmp_path / "b.mat", arrays | {"L_tr": HOT[:4].astype(np.uint8), "L_db": HOT[:9].astype(float)})
    assert load_pairs("b", tmp_path).splits == pairs.splits


def test_class_names_and_ids(tmp_path):
    arrays = {
        "image_train": IMAGE,
        "text_train": TEXT,
        "y_train": CLASSES,
        "ids_train": [f"n{i}" for i in range(12)],
    }
    np.savez(tmp_path / "a.npz", **arrays, label_names=np.array(["a", "b", "c", "d"]))
    pairs = load_pairs("a", tmp_path)
    assert pairs.label_names == ("a", "b", "c", "d")
    assert pairs.labels[:4].argmax(1).tolist() == [0, 1, 2, 3]
    assert pairs.ids[11] == "n11"
    np.savez(tmp_path / "b.npz", **(arrays | {"ids_train": ["n"] * 12}))
    with pytest.raises(ValueError, match=r"b.npz: split 'train' has values of 'id' twice"):
        load_pairs("b", tmp_path)


NAN = np.where(np.arange(12)[:, None] == 3, np.nan, IMAGE)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"stuff": IMAGE},
            r"a.npz has no features that are known. There are: stuff \(12, 5\). Wanted: image_train",
        ),
        ({"I_tr": IMAGE}, r"split 'train' has image; every split needs image and text"),
        ({"I_tr": NAN, "T_tr": TEXT}, r"a.npz: 'I_tr' has values that are not finite in 1 rows, row 3 first"),
        ({"I_tr": IMAGE, "T_tr": TEXT[1:]}, r"unequal or no rows: I_tr \(12, 5\), T_tr \(11, 7\)"),
        ({"I_tr": IMAGE, "T_tr": TEXT, "L_tr": HOT * 2}, r"'L_tr' has other values than 0 and 1"),
        ({"I_tr": IMAGE, "T_tr": TEXT, "L_tr": CLASSES / 2}, r"class numbers or multi-hot rows are needed"),
        (
            {"I_tr": IMAGE, "img_train": IMAGE, "T_tr": TEXT},
            r"image of 'train' is there as I_tr, img_train; keep one",
        ),
        ({"I_tr": IMAGE, "T_tr": TEXT, "XAll": IMAGE, "YAll": TEXT}, r"arrays of all rows, and of train"),
        (
            {"I_tr": IMAGE, "T_tr": TEXT, "I_te": IMAGE[:, 1:], "T_te": TEXT},
            r"image features have widths \[4, 5\]",
        ),
        (
            {"I_tr": IMAGE, "T_tr": TEXT, "I_tr_labels": CLASSES, "T_tr_labels": CLASSES[::-1]},
            r"label of 'train' is there as I_tr_labels, T_tr_labels",
        ),
        (
            {"I_tr": IMAGE, "T_tr": TEXT, "L_tr": HOT, "I_te": IMAGE, "T_te": TEXT},
            r"split 'test' has image, text; every",
        ),
    ],
)
def test_features_that_cannot_be_read(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_pairs("a", tmp_path)


def test_broken_and_unknown_files(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"no matrix")
    with pytest.raises(ValueError, match=r"a.mat is no .mat file that can be read"):
        load_pairs("a", tmp_path)
    (tmp_path / "c.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"c.npz is no .npz file that can be read"):
        load_pairs("c", tmp_path)
    (tmp_path / "b.txt").write_text("?")
    with pytest.raises(ValueError, match=r"b.txt ends in '.txt'; files that are read: .npz"):
        load_pairs("b.txt", tmp_path)


def test_wikipedia(shared):
    pairs = load_pairs("wikipedia2010", shared / "data")
    assert pairs.splits == {"train": range(2173), "test": range(2173, 2866)}
    assert pairs.image_features.shape == (2866, 128)
    assert pairs.text_features.shape == (2866, 10)
    assert pairs.label_names[:2] == ("art", "biology")
    assert (pairs.labels.sum(1) == 1).all()
    assert pairs.labels[:2173, 0].sum() == 138  # as published: 138 articles of art to train on


def test_flickr8k(shared):
    pairs = load_pairs("flickr8k_128", shared / "data")
    assert {split: len(rows) for split, rows in pairs.splits.items()} == {"database": 6091, "query": 1000}
    assert all(len(texts) == 5 for texts in pairs.texts)
    assert len(pairs.label_names) == 12
    assert 0.02 < 1 - pairs.labels.any(1).mean() < 0.04
    assert pairs.images[np.array([0, 7090])].shape == (2, 128, 128, 3)
