"""Weight files as people have them: where they are looked for, and what is said of those that do not serve."""

import json
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from kdhash.__main__ import main
from kdhash.teachers.sources import find_source, read_state

RNG = np.random.default_rng(0)


def arrays(*names, dtype=np.float32):
    return {name: RNG.normal(size=(2, 3)).astype(dtype) for name in names}


def sharded(folder):
    folder.mkdir()
    parts = {"model-1.safetensors": arrays("a", "b"), "model-2.safetensors": arrays("c")}
    for name, part in parts.items():
        safetensors.numpy.save_file(part, folder / name)
    index = {"weight_map": {tensor: name for name, part in parts.items() for tensor in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return parts


def test_shards_are_read_together(tmp_path):
    parts = sharded(tmp_path / "m")
    state = read_state(find_source(str(tmp_path / "m")))
    assert sorted(state) == ["a", "b", "c"]
    np.testing.assert_array_equal(state["c"], parts["model-2.safetensors"]["c"])


def test_a_missing_shard_is_named(tmp_path):
    sharded(tmp_path / "m")
    (tmp_path / "m" / "model-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-2\.safetensors.*download"):
        find_source(str(tmp_path / "m"))


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd"])
def test_an_index_reads_nothing_outside_its_folder(tmp_path, name):
    folder = tmp_path / "m"
    folder.mkdir()
    safetensors.numpy.save_file(arrays("a"), tmp_path / "secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(FileNotFoundError, match="not beside it"):
        find_source(str(folder))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_comes_as_stored(tmp_path, dtype):
    state = arrays("a", dtype=dtype)
    safetensors.numpy.save_file(state, tmp_path / "m.safetensors")
    read = read_state(find_source(str(tmp_path / "m.safetensors")))["a"]
    assert read.dtype == dtype
    np.testing.assert_array_equal(read.astype(np.float32), state["a"].astype(np.float32))


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model."])
def test_wrapping_prefixes_are_taken_off(tmp_path, prefix):
    safetensors.numpy.save_file(arrays(f"{prefix}a", f"{prefix}b"), tmp_path / "m.safetensors")
    assert sorted(read_state(find_source(str(tmp_path / "m.safetensors")))) == ["a", "b"]


def test_a_file_of_a_folder_comes_with_what_the_folder_says(tmp_path):
    sharded(tmp_path / "m")
    folder = tmp_path / "m"
    for name in ("model.safetensors", "other.safetensors"):
        safetensors.numpy.save_file(arrays("lone"), folder / name)
    (folder / "config.json").write_text('{"model_type": "resnet"}')
    (folder / "preprocessor_config.json").write_text('{"size": 8}')
    for name, tensors in (
        ("model.safetensors", ["lone"]),
        ("model.safetensors.index.json", ["a", "b", "c"]),
    ):
        source = find_source(str(folder / name))
        assert (source.path, source.config["model_type"]) == (folder / name, "resnet")
        assert source.preprocessor == {"size": 8}
        assert sorted(read_state(source)) == tensors
    other = find_source(str(folder / "other.safetensors"))  # nothing says that config.json is about it
    assert (other.config, other.preprocessor) == ({}, {})


def test_a_file_alone_needs_no_neighbours(tmp_path):
    safetensors.numpy.save_file(arrays("a"), tmp_path / "model.safetensors")
    source = find_source(str(tmp_path / "model.safetensors"))
    assert (source.config, source.preprocessor) == ({}, {})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """hub(names...) is a repository of these files, as the hub's client downloads it: [the names of each download]."""
    client = pytest.importorskip("huggingface_hub", reason="needs the extra 'hub'")
    from huggingface_hub.utils import filter_repo_objects

    def publish(*names):
        downloads = []

        def snapshot_download(name, *, revision, allow_patterns):
            assert (name, revision) == ("owner/name", "v1")
            downloads.append(sorted(filter_repo_objects(names, allow_patterns=allow_patterns)))
            for file in downloads[-1]:
                if file.endswith(".safetensors"):
                    safetensors.numpy.save_file(arrays("a"), tmp_path / file)
                else:
                    (tmp_path / file).write_text("{}")
            return str(tmp_path)

        monkeypatch.setattr(client, "snapshot_download", snapshot_download)
        return downloads

    return publish


def test_a_repository_comes_with_its_tokenizer_and_in_one_kind_of_file(hub, tmp_path):
    described = ["config.json", "merges.txt", "preprocessor_config.json", "special_tokens_map.json"]
    described += ["tokenizer.json", "tokenizer_config.json", "vocab.json"]
    downloads = hub(*described, "README.md", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx")
    assert find_source("hf://owner/name@v1").files == (tmp_path / "model.safetensors",)
    assert downloads == [sorted([*described, "model.safetensors"])]


def test_a_repository_of_pickles_only_is_fetched_too(hub, tmp_path):
    downloads = hub("config.json", "pytorch_model.bin", "training_args.bin")
    assert find_source("hf://owner/name@v1").files == (tmp_path / "pytorch_model.bin",)
    assert downloads == [["config.json"], ["config.json", "pytorch_model.bin"]]


def test_a_repository_without_weights_is_named(hub):
    hub("config.json", "model.gguf")
    with pytest.raises(
        FileNotFoundError, match=r"hf://owner/name@v1 holds none of model\.safetensors, .*another"
    ):
        find_source("hf://owner/name@v1")


def test_names_are_looked_for_in_the_folders_of_the_environment(tmp_path, monkeypatch):
    (tmp_path / "two").mkdir()
    safetensors.numpy.save_file(arrays("a"), tmp_path / "two" / "m.safetensors")
    monkeypatch.setenv("KDHASH_WEIGHTS", f"{tmp_path / 'one'}:{tmp_path / 'two'}")
    assert find_source("m.safetensors").path == tmp_path / "two" / "m.safetensors"
    with pytest.raises(FileNotFoundError, match="KDHASH_WEIGHTS"):
        find_source("n.safetensors", "somewhere")


def test_a_repository_that_is_not_there_says_how_to_get_it(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"hf download nobody/nothing .*--local-dir"):
        find_source("hf://nobody/nothing")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{broken", "not a readable safetensors file"),
        ("m.safetensors", b"", "not a readable safetensors file"),
        ("m.pth", b"PK\x03\x04 and nothing", "m.pth"),
        ("m.onnx", b"", r"unknown kind of weight file; .*\.pt, \.bin, folders with config\.json, and Orbax"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_state(find_source(str(tmp_path / name)))


def test_a_torchscript_program_says_what_to_take_instead(tmp_path):
    def archive(name, *parts):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            for part in parts:
                # protocol 2: a class that no state dict needs
                file.writestr(part, b"\x80\x02c__torch__\nNet\n." if part.endswith(".pkl") else b"")
        return find_source(str(tmp_path / name))

    with pytest.raises(ValueError, match=r"net\.pt is a TorchScript program.*state_dict\(\).*hf://openai"):
        read_state(archive("net.pt", "net/data.pkl", "net/constants.pkl", "net/code/__torch__.py"))
    with pytest.raises(ValueError, match="refused: the pickle asks for __torch__.Net"):
        read_state(archive("evil.pt", "net/data.pkl", "net/data/0"))


def test_command_lists_networks_and_checks_files(shared, tmp_path, capsys):
    rows = {}
    for family in ("resnet", "squeezenet", "clip_text"):
        assert main(["teachers", "--family", family, "--json"]) == 0
        rows |= {row["network"]: row for row in json.loads(capsys.readouterr().out)}
    # published numbers, less 1,000 classes
    assert (rows["resnet50"]["width"], rows["resnet50"]["parameters"]) == (2048, 25_557_032 - 2_049_000)
    assert rows["squeezenet1_0"]["parameters"] == 1_248_424 - 513_000
    assert rows["openai/clip-vit-base-patch32"]["input"] == 77
    assert main(["teachers", "--family", "none"]) == 1
    assert "known are resnet_cifar" in capsys.readouterr().err
    assert main(["teachers", "check", str(shared / "weights" / "squeezenet1_0.pth"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["network"], facts["classes"], facts["width"]) == ("squeezenet1_0", 1000, 512)
    assert main(["teachers", "check", str(tmp_path / "none.pth")]) == 1
    assert "none.pth" in capsys.readouterr().err
