"""From a trained run to a search by picture and by text: export, encode, index build, serve."""

import http.client
import json
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from kdhash.__main__ import main
from kdhash.export import load_model
from kdhash.export.write import export_run
from kdhash.retrieval.index import open_index
from tests.export.small_runs import TEXTS, write_kdcmh


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `model`, sixteen `photos`, and an `index` that remembers the model."""
    place = tmp_path_factory.mktemp("with_model")
    (place / "weights").mkdir()
    export_run(
        write_kdcmh(place / "run", place / "weights"),
        place / "model",
        weights_dir=place / "weights",
        onnx=False,
    )
    (place / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(16):
        coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
        coarse.resize((40, 30), Image.Resampling.NEAREST).save(place / "photos" / f"{number}.png")
    assert main(["encode", f"{place / 'model'}", f"{place / 'photos'}", "--out", f"{place / 'codes'}"]) == 0
    assert main(["index", "build", f"{place / 'codes'}", f"{place / 'index'}"]) == 0
    return place


def post(port, body, kind):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/search", body, {"content-type": kind})
    return json.loads(connection.getresponse().read())


def test_pictures_and_texts_find_what_the_model_says(place, start):
    _, line = start("-m", "kdhash", "serve", place / "index", "--port", "0")
    assert "pictures and texts" in line
    port = int(re.search(r":(\d+)$", line)[1])
    model, index = load_model(place / "model"), open_index(place / "index")
    files = sorted((place / "photos").iterdir())

    def upload(file):
        head = b'--b\r\ncontent-disposition: form-data; name="picture"; filename="a"\r\n\r\n'
        return post(port, head + file.read_bytes() + b"\r\n--b--\r\n", "multipart/form-data; boundary=b")

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(upload, files))
    codes = model.encode_pictures(np.stack([model.fit(file) for file in files]))
    assert [answer["query"]["code"] for answer in answers] == [code.tobytes().hex() for code in codes]
    for file, answer in zip(files, answers, strict=True):
        nearest = [result["id"] for result in answer["results"] if result["distance"] == 0]
        assert file.name in nearest
    for text, code in zip(TEXTS, model.encode_texts(TEXTS), strict=True):
        found = index.search(code[None], k=5)
        body = json.dumps({"text": text, "k": 5})
        results = post(port, body, "application/json")["results"]
        assert [result["number"] for result in results] == found.numbers[0].tolist()
