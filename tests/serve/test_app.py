import numpy as np
import pytest

from kdhash.retrieval.engines.index_ivf import build_ivf
from kdhash.retrieval.index import open_index
from kdhash.retrieval.write_index import add_items, build_index, delete_items
from kdhash.serve import served as served_module
from kdhash.serve.app import make_app
from tests.serve.stand_ins import BITS, ProjectionModel, text_code, write_digits


def numbers(answer):
    assert answer.status_code == 200, answer.text
    return [result["number"] for result in answer.json()["results"]]


def upload(client, data, name="a.png", **fields):
    return client.post("/search", files={"picture": (name, data, "image/png")}, data=fields)


def test_a_picture_finds_itself_first_with_distances_bits_and_metadata(client, index, picture):
    body = upload(client, picture, k="3").json()
    first = body["results"][0]
    assert (first["number"], first["id"], first["distance"], first["matched_bits"]) == (
        7,
        "digits/7.png",
        0,
        BITS,
    )
    assert first["metadata"]["label"] == "7"
    assert first["code"] == body["query"]["code"] == index.codes_of([7]).tobytes().hex()
    assert len(body["results"]) == 3
    for result in body["results"]:
        differing = int(first["code"], 16) ^ int(result["code"], 16)
        assert result["distance"] == differing.bit_count() == BITS - result["matched_bits"]
    assert body["latency"]["batch"] == 1
    assert body["latency"]["encode_ms"] >= body["latency"]["decode_ms"] > 0
    assert body["latency"]["search_ms"] > 0


def test_a_text_is_searched_with_its_code(client, index):
    body = client.post("/search", json={"text": "seven", "k": 4}).json()
    found = index.search(text_code("seven")[None], k=4)
    assert [result["number"] for result in body["results"]] == found.numbers[0].tolist()
    assert body["query"] == {"kind": "text", "number": None, "code": text_code("seven").tobytes().hex()}


@pytest.mark.parametrize(
    "ask",
    [
        lambda client, **options: client.get("/similar/7", params=options),
        lambda client, **options: client.post("/search", json={"number": 7, **options}),
    ],
    ids=["similar", "search"],
)
def test_neighbours_of_an_item_leave_it_out_and_encode_nothing(client, index, ask):
    answer = ask(client, k=5, radius=25)
    found = index.search(index.codes_of([7]), k=6, radius=25)
    expected = [number for number in found.numbers[0].tolist() if number != 7][:5]
    assert numbers(answer) == expected
    assert len(expected) > 1
    assert answer.json()["latency"] | {"search_ms": 0} == {
        "decode_ms": 0,
        "encode_ms": 0,
        "search_ms": 0,
        "batch": 0,
    }


def test_a_code_finds_what_has_it(client, index):
    code = index.codes_of([3]).tobytes().hex().upper()
    assert numbers(client.post("/search", json={"code": code, "k": 1})) == [3]
    assert 3 in numbers(client.post("/search", json={"code": code, "radius": 0}))


@pytest.mark.parametrize(
    ("where", "passes"),
    [
        ('label = "3"', lambda row: row["label"] == "3"),
        ('tags has "even" and width > 35', lambda row: "even" in row["tags"] and row["width"] > 35),
        ("", lambda row: True),
    ],
)
def test_a_filter_holds_for_every_result(client, where, passes):
    found = client.get("/similar/3", params={"k": 100, "where": where}).json()["results"]
    assert len(found) >= 5
    assert all(passes(result["metadata"]) for result in found)


@pytest.mark.parametrize("columns", ["", "label", "width,label"])
def test_columns_choose_the_metadata(client, columns):
    found = client.get("/similar/3", params={"columns": columns}).json()["results"]
    assert set(found[0]["metadata"]) == set(filter(None, columns.split(",")))
    as_list = [name for name in columns.split(",") if name]
    assert client.post("/search", json={"number": 3, "columns": as_list}).json()["results"] == found


def test_an_item_is_answered_as_json_can_hold_it(client):
    assert client.get("/items/0").json()["metadata"] == {
        "label": "0",
        "tags": ["even"],
        "width": 32,
        "darkness": None,  # NaN
        "added": "1970-01-01T00:00:00",
    }


def test_thumbnails_are_jpegs_that_are_sent_once(client, index):
    answer = client.get("/pictures/5")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content == index.thumbnail(5)
    again = client.get("/pictures/5", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/pictures/6", headers={"if-none-match": answer.headers["etag"]}).status_code == 200


def test_an_index_without_thumbnails_says_so(make_client, tmp_path):
    build_index(write_digits(tmp_path / "items", 5, thumbs=False), tmp_path / "index")
    answer = make_client(served=open_index(tmp_path / "index")).get("/pictures/2")
    assert answer.status_code == 404
    assert "thumbnail" in answer.json()["message"]


def test_a_sample_is_drawn_of_live_items_only(make_client, tmp_path):
    build_index(write_digits(tmp_path / "items", 40), tmp_path / "index")
    delete_items(tmp_path / "index", [f"digits/{number}.png" for number in range(30)])
    add_items(tmp_path / "index", write_digits(tmp_path / "more", 3, first=40))
    client = make_client(served=open_index(tmp_path / "index"))
    drawn = [item["number"] for item in client.get("/sample?count=100").json()["items"]]
    assert sorted(drawn) == list(range(30, 43))
    few = [tuple(item["number"] for item in client.get("/sample?count=4").json()["items"]) for _ in range(8)]
    assert all(len(set(one)) == 4 and set(one) <= set(drawn) for one in few)
    assert len(set(few)) > 1


def test_info_tells_what_is_served(client, make_client, index):
    info = client.get("/info").json()
    assert (info["bits"], info["count"], info["index_model"]) == (BITS, 120, "projection-model")
    assert info["model"] == {"hash": "projection-model", "kind": "image-text", "size": 16, "texts": True}
    assert info["columns"]["tags"] == "list<string>"
    assert make_client(ProjectionModel("image")).get("/info").json()["model"]["texts"] is False
    assert make_client(None).get("/info").json()["model"] is None
    # an example that finds nothing would be none
    for example in info["filter_examples"]:
        assert numbers(client.get("/similar/3", params={"where": example, "k": 200}))
    assert info["filter_examples"][0].startswith("label = ")


@pytest.mark.parametrize(
    ("path", "kind", "beginning"),
    [
        ("/", "text/html", "<!doctype html>"),
        ("/static/page.js", "text/javascript", "//"),
        ("/static/view.js", "text/javascript", "//"),
        ("/static/api.js", "text/javascript", "//"),
        ("/static/page.css", "text/css", ":root"),
        ("/static/icon.svg", "image/svg+xml", "<svg"),
    ],
)
def test_the_page_and_its_files(client, path, kind, beginning):
    answer = client.get(path)
    assert answer.headers["content-type"].startswith(kind)
    assert answer.text.startswith(beginning)
    assert client.get(path, headers={"if-none-match": answer.headers["etag"]}).status_code == 304


REFUSED = {
    "k=0": ("GET", "/similar/3?k=0", {}, 422, "k"),
    "k too large": ("GET", "/similar/3?k=1001", {}, 422, "1 to 1 000"),
    "k no number": ("GET", "/similar/3?k=ten", {}, 422, "k"),
    "k of other digits": ("GET", "/similar/3?k=٣", {}, 422, "k"),
    "radius": ("GET", "/similar/3?radius=65", {}, 422, "0 to 64"),
    "negative radius": ("GET", "/similar/3?radius=-1", {}, 422, "radius"),
    "typing error": ("GET", "/similar/3?radios=3", {}, 422, "'radios'"),
    "twice": ("GET", "/similar/3?k=3&k=4", {}, 422, "twice"),
    "filter": ("GET", "/similar/3?where=label+%3D", {}, 422, "where: filter, character"),
    "filter type": ("GET", "/similar/3?where=label+%3D+3", {}, 422, "where: filter, character 1"),
    "filter column": ("GET", "/similar/3?where=lable+%3D+'3'", {}, 422, "label"),
    "filter too long": ("GET", "/similar/3?where=" + "a" * 2001, {}, 422, "2000"),
    "filter too deep": ("GET", "/similar/3?where=" + "(" * 1900, {}, 422, "where"),
    "columns": ("GET", "/similar/3?columns=label,lable", {}, 422, "'lable'"),
    "number not there": ("GET", "/similar/120", {}, 404, "120"),
    "huge number": ("GET", "/items/" + "9" * 5000, {}, 422, "number"),
    "above 64 bits": ("GET", "/items/9999999999999999999", {}, 422, "number"),
    "negative number": ("GET", "/items/-1", {}, 422, "number"),
    "a path as number": ("GET", "/pictures/..%2F..%2Fetc%2Fpasswd", {}, 404, "openapi"),
    "an id as number": ("GET", "/pictures/digits.png", {}, 422, "number"),
    "no such file": ("GET", "/static/app.py", {}, 404, "openapi"),
    "no such path": ("GET", "/admin", {}, 404, "openapi"),
    "sample": ("GET", "/sample?count=201", {}, 422, "1 to 200"),
    "duplicates": ("GET", "/duplicates?radius=9", {}, 422, "0 to 8"),
    "method": ("GET", "/search", {}, 405, "method"),
    "method of items": ("DELETE", "/items/3", {}, 405, "method"),
    "no question": ("POST", "/search", {"json": {"k": 3}}, 422, "text, number, code; got none"),
    "two questions": ("POST", "/search", {"json": {"text": "a", "number": 3}}, 422, "text and number"),
    "empty text": ("POST", "/search", {"json": {"text": ""}}, 422, "text"),
    "long text": ("POST", "/search", {"json": {"text": "a" * 2001}}, 422, "2000"),
    "half a surrogate": ("POST", "/search", {"content": b'{"text": "\\ud800"}'}, 422, "surrogate"),
    "surrogate column": (
        "POST",
        "/search",
        {"content": b'{"number": 1, "columns": ["\\ud800"]}'},
        422,
        "columns",
    ),
    "surrogate field": ("POST", "/search", {"content": b'{"number": 1, "\\ud800": 1}'}, 422, "no field"),
    "code too short": ("POST", "/search", {"json": {"code": "00ff"}}, 422, "16 hexadecimal digits"),
    "code no hex": ("POST", "/search", {"json": {"code": "x" * 16}}, 422, "16 hexadecimal digits"),
    "k as text": ("POST", "/search", {"json": {"number": 1, "k": "5"}}, 422, "k"),
    "k as truth": ("POST", "/search", {"json": {"number": 1, "k": True}}, 422, "k"),
    "k and a half": ("POST", "/search", {"json": {"number": 1, "k": 1.5}}, 422, "k"),
    "number as text": ("POST", "/search", {"json": {"number": "1"}}, 422, "number"),
    "number not there, POST": ("POST", "/search", {"json": {"number": 4711}}, 404, "4711"),
    "columns as text": ("POST", "/search", {"json": {"number": 1, "columns": "label"}}, 422, "columns"),
    "no JSON": ("POST", "/search", {"content": b"{"}, 400, "not JSON"),
    "no UTF-8": ("POST", "/search", {"content": b'{"text": "\xff"}'}, 400, "not JSON"),
    "NaN": ("POST", "/search", {"content": b'{"number": NaN}'}, 400, "NaN"),
    "a list": ("POST", "/search", {"content": b"[1]"}, 400, "object"),
    "deep JSON": ("POST", "/search", {"content": b"[" * 200_000}, 400, "deeply"),
    "huge integer": ("POST", "/search", {"content": b'{"number": ' + b"9" * 5000 + b"}"}, 400, "not JSON"),
    "other content": (
        "POST",
        "/search",
        {"content": b"a", "headers": {"content-type": "text/plain"}},
        415,
        "multipart",
    ),
    "form without file": ("POST", "/search", {"data": {"k": "3"}, "files": {}}, 415, "multipart"),
    "no boundary": (
        "POST",
        "/search",
        {"content": b"a", "headers": {"content-type": "multipart/form-data"}},
        400,
        "form",
    ),
    "no picture": ("POST", "/search", {"files": {"k": (None, "3")}}, 422, "picture"),
    "file of another name": (
        "POST",
        "/search",
        {"files": {"image": ("a.png", b"a")}},
        422,
        "'image' is no field",
    ),
    "two pictures": (
        "POST",
        "/search",
        {"files": [("picture", ("a", b"a")), ("picture", ("b", b"b"))]},
        400,
        "files",
    ),
    "field twice": ("POST", "/search", {"files": [("k", (None, "1")), ("k", (None, "2"))]}, 422, "twice"),
    "field of a form": (
        "POST",
        "/search",
        {"files": [("k", (None, "1001")), ("picture", ("a", b"a"))]},
        422,
        "k",
    ),
}


@pytest.mark.parametrize(("method", "path", "request_", "status", "says"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_answered_with_what_to_do(client, method, path, request_, status, says):
    headers = {"content-type": "application/json"} if "content" in request_ else {}
    answer = client.request(method, path, **{"headers": headers, **request_})
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "message"}
    assert says in answer.json()["message"]


@pytest.mark.parametrize(
    ("kind", "request_", "says"),
    [
        (None, {"json": {"text": "a"}}, "--model"),
        (None, {"files": {"picture": ("a.png", b"a")}}, "--model"),
        ("image", {"json": {"text": "a"}}, "no text tower"),
    ],
)
def test_what_the_model_cannot_do_is_refused(make_client, kind, request_, says):
    answer = make_client(kind and ProjectionModel(kind)).post("/search", **request_)
    assert answer.status_code == 422
    assert says in answer.json()["message"]


def test_a_failure_is_answered_without_its_reasons(make_client, index, picture):
    class Broken(ProjectionModel):
        def encode_pictures(self, pixels):
            raise RuntimeError("/home/someone/secret")

    client = make_client(Broken(), raise_server_exceptions=False)
    answer = upload(client, picture)
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "internal_server_error",
        "message": "something went wrong here; the server's log says what",
    }
    assert "content-security-policy" in answer.headers


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bits": 128}, "makes 128"),
        ({"hash": "other", "searches": ("other",)}, "may search its own codes only"),
    ],
)
def test_a_model_of_other_codes_is_refused(index, change, says):
    model = ProjectionModel()
    for name, value in change.items():
        setattr(model, name, value)
    with pytest.raises(ValueError, match=says):
        make_app(index, model)


@pytest.mark.parametrize(
    "change",
    [
        {"hash": "student", "searches": ("student", "projection-model")},
        {"hash": "projection-model", "searches": ()},
    ],
)
def test_a_model_that_may_search_the_codes_is_taken(index, change):
    model = ProjectionModel()
    for name, value in change.items():
        setattr(model, name, value)
    make_app(index, model)


def test_what_others_write_is_seen(make_client, tmp_path, monkeypatch):
    monkeypatch.setattr(served_module, "REFRESH_SECONDS", 0.0)
    build_index(write_digits(tmp_path / "items", 10), tmp_path / "index")
    client = make_client(served=open_index(tmp_path / "index"))
    assert client.get("/items/10").status_code == 404
    add_items(tmp_path / "index", write_digits(tmp_path / "more", 5, first=10))
    delete_items(tmp_path / "index", ["digits/2.png"])
    assert client.get("/items/10").json()["id"] == "digits/10.png"
    assert client.get("/items/2").status_code == 404
    assert client.get("/info").json()["count"] == 14


def test_the_exact_engine_answers_until_the_approximate_one_is_made_anew(make_client, tmp_path):
    build_index(write_digits(tmp_path / "items", 60), tmp_path / "index")
    build_ivf(open_index(tmp_path / "index"), recall=1.0)
    client = make_client(served=open_index(tmp_path / "index"), engine="ivf")
    assert client.get("/info").json()["engine"] == "ivf"
    before = numbers(client.get("/similar/3?k=5"))
    delete_items(tmp_path / "index", [f"digits/{before[0]}.png"])
    client.app.app.state.served._next_refresh = 0.0
    assert numbers(client.get("/similar/3?k=4")) == before[1:]


def test_the_index_is_looked_up_at_most_once_a_second(make_client, index, monkeypatch):
    looked = []
    monkeypatch.setattr(type(index), "refresh", lambda self: looked.append(1) or self)
    client = make_client(None)
    client.app.app.state.served._next_refresh = 0.0
    for _ in range(5):
        client.get("/info")
    assert len(looked) == 1


def test_an_index_that_cannot_be_opened_again_is_served_on(make_client, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(served_module, "REFRESH_SECONDS", 0.0)
    build_index(write_digits(tmp_path / "items", 10), tmp_path / "index")
    client = make_client(served=open_index(tmp_path / "index"))
    (tmp_path / "index" / "manifest.json").write_text("{")
    assert client.get("/items/9").status_code == 200
    assert "older one is served" in caplog.text


def test_sampling_a_large_index_reads_few_rows():
    class Segment:
        count, deleted = 10**9, None

        def numbers_at(self, rows):
            return rows + 5

    class Large:
        segments = (Segment(), Segment())

    drawn = served_module.sample_numbers(Large(), 24, np.random.default_rng(0))
    assert len(set(drawn.tolist())) == 24
    assert drawn.max() > 10**8
