"""Requests made from /openapi.json: none may fail with a 5xx, and every answer must be as the document says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.stand_ins import digits, encoded

hypothesis = pytest.importorskip("hypothesis", reason="pip install 'kdhash[test]'")
schemathesis = pytest.importorskip("schemathesis", reason="pip install 'kdhash[test]'")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")
st = hypothesis.strategies

PICTURES = [encoded(picture) for picture in digits(3)[0]]
schemathesis.openapi.media_type("image/*", st.sampled_from(PICTURES))
COMPARISONS = st.one_of(
    st.tuples(
        st.just("label"),
        st.sampled_from(["=", "!=", "<", ">=", "like", "not like"]),
        st.sampled_from("0123456789*"),
    ),
    st.tuples(st.just("tags"), st.sampled_from(["has", "not has"]), st.text("aevn'\\ ", max_size=4)),
    st.tuples(
        st.sampled_from(["width", "darkness"]),
        st.sampled_from(["=", "<", ">"]),
        st.integers(-(2**63) + 1, 2**63 - 1),
    ),
    st.tuples(st.just("darkness"), st.just("<="), st.floats(allow_nan=False, allow_infinity=False)),
).map(lambda parts: f"{parts[0]} {parts[1]} {json.dumps(parts[2])}")
FILTERS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        inner.map("not ({})".format),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map("({0[0]} {0[1]} {0[2]})".format),
    ),
    max_leaves=4,
)
schemathesis.openapi.format("filter", FILTERS)
schemathesis.openapi.format("columns", st.lists(st.sampled_from(["label", "tags", "width"])).map(",".join))

ASKED = [
    ("POST", "/search"),
    ("GET", "/similar/{number}"),
    ("GET", "/items/{number}"),
    ("GET", "/pictures/{number}"),
]
ASKED += [("GET", "/sample"), ("GET", "/duplicates")]
WITHOUT_QUESTIONS = [("GET", "/healthz"), ("GET", "/info"), ("GET", "/openapi.json")]
VALID, INVALID = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


@pytest.fixture(scope="module")
def document(index_folder):
    command = [sys.executable, "-m", "tests.serve.serving", str(index_folder), "0"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    try:
        yield schemathesis.openapi.from_url(
            f"http://127.0.0.1:{process.stdout.readline().strip()}/openapi.json"
        )
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_every_operation_is_tried(document):
    paths = document.raw_schema["paths"].items()
    assert {(method.upper(), path) for path, methods in paths for method in methods} == {
        *ASKED,
        *WITHOUT_QUESTIONS,
    }


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [(*one, mode) for one in ASKED for mode in (VALID, INVALID)]
    + [(*one, VALID) for one in WITHOUT_QUESTIONS],
)
def test_every_answer_is_as_the_document_says(document, method, path, mode):
    operation = document[path][method]

    @hypothesis.settings(
        max_examples=40 if path == "/search" else 15,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def ask(case):
        # an empty list, where a form wants a text, is sent as no field at all: what arrives is valid
        form = case.media_type == "multipart/form-data"
        case.call_and_validate(excluded_checks=[checks.negative_data_rejection] if form else [])

    ask()
