import contextlib

import numpy as np
import pyarrow as pa
import pytest

from kdhash.retrieval.filters import FilterError, parse_filter

ROWS = [
    {
        "id": "2019/a.jpg",
        "label": "dog",
        "width": 300,
        "tags": ["snow", "dog"],
        "sharp": True,
        "score": 0.5,
        "big": 2**63 + 1,
    },
    {"id": "2019/b%.jpg", "label": "cat", "width": 301, "tags": [], "sharp": False, "score": -1.0, "big": 0},
    {
        "id": "2020/c_d.jpg",
        "label": None,
        "width": None,
        "tags": None,
        "sharp": None,
        "score": None,
        "big": None,
    },
    {
        "id": 'say "hi"\n',
        "label": "Dog",
        "width": -5,
        "tags": ["snow"],
        "sharp": True,
        "score": 2.0,
        "big": 7,
    },
    {
        "id": "it's",
        "label": "",
        "width": 2**60 + 1,
        "tags": [None, "x"],
        "sharp": False,
        "score": float("nan"),
        "big": 1,
    },
    {
        "id": "back\\slash",
        "label": "éclair",
        "width": 0,
        "tags": ["é"],
        "sharp": True,
        "score": 1e300,
        "big": 2,
    },
]
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "label": pa.string(),
        "width": pa.int64(),
        "tags": pa.list_(pa.string()),
        "sharp": pa.bool_(),
        "score": pa.float64(),
        "big": pa.uint64(),
    }
)
TABLE = pa.Table.from_pylist(ROWS, SCHEMA)


def of(row, name, test):
    """A comparison with a missing value is false."""
    return row[name] is not None and test(row[name])


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ('label = "dog"', lambda r: r["label"] == "dog"),
        ('label == "dog"', lambda r: r["label"] == "dog"),
        ("label='dog'", lambda r: r["label"] == "dog"),
        ('label != "dog"', lambda r: r["label"] != "dog"),
        ('label = ""', lambda r: r["label"] == ""),
        ('label < "a"', lambda r: of(r, "label", lambda v: v.encode() < b"a")),
        ('label >= "dog"', lambda r: of(r, "label", lambda v: v.encode() >= b"dog")),
        ('label = "éclair"', lambda r: r["label"] == "éclair"),
        ("width > 300", lambda r: of(r, "width", lambda v: v > 300)),
        ("width >= 300.5", lambda r: of(r, "width", lambda v: v >= 300.5)),
        ("width = 1152921504606846977", lambda r: r["width"] == 2**60 + 1),
        ("width < -4", lambda r: of(r, "width", lambda v: v < -4)),
        ("width<=.5e1", lambda r: of(r, "width", lambda v: v <= 5)),
        ("width in (300, 0, -5.0)", lambda r: r["width"] in (300, 0, -5)),
        ("width not in (300, 301)", lambda r: r["width"] not in (300, 301)),
        ('label in ("dog", "cat")', lambda r: r["label"] in ("dog", "cat")),
        ('label NOT IN ("dog")', lambda r: r["label"] != "dog"),
        ("big > 8", lambda r: of(r, "big", lambda v: v > 8)),
        ("big > -1", lambda r: r["big"] is not None),
        ("big <= -1 or big in (7, -7)", lambda r: r["big"] == 7),
        ("score > -2", lambda r: of(r, "score", lambda v: v > -2)),
        ("score = 2", lambda r: r["score"] == 2),
        ("score < 9223372036854775807", lambda r: of(r, "score", lambda v: v < 2.0**63)),
        ("sharp = true", lambda r: r["sharp"] is True),
        ("sharp != true", lambda r: r["sharp"] is not True),
        ("sharp = FALSE", lambda r: r["sharp"] is False),
        ("sharp in (true, false)", lambda r: r["sharp"] is not None),
        ('tags has "snow"', lambda r: "snow" in (r["tags"] or [])),
        ("tags not has 'snow'", lambda r: "snow" not in (r["tags"] or [])),
        ('id like "2019/*"', lambda r: r["id"].startswith("2019/")),
        ('id like "*%*"', lambda r: "%" in r["id"]),
        ('id like "*c_d*"', lambda r: "c_d" in r["id"]),
        (r'id like "*\\*"', lambda r: "\\" in r["id"]),
        (r'id like "*\"hi\"*"', lambda r: '"hi"' in r["id"]),
        (r"id = 'it\'s'", lambda r: r["id"] == "it's"),
        ('id like "say*"', lambda r: r["id"].startswith("say")),
        ('id not like "*.jpg"', lambda r: not r["id"].endswith(".jpg")),
        ('`label` = "dog"', lambda r: r["label"] == "dog"),
        ('not label = "dog" and width = 301', lambda r: r["label"] != "dog" and r["width"] == 301),
        ('not (label = "dog" or width = 301)', lambda r: not (r["label"] == "dog" or r["width"] == 301)),
        ('label = "dog" or label = "cat" and width = 0', lambda r: r["label"] == "dog"),
        ('(label = "dog" or label = "cat") and width = 0', lambda r: False),
        (
            'label = "dog" and (width > 300 or tags has "snow") and not id = "query"',
            lambda r: (
                r["label"] == "dog" and (of(r, "width", lambda v: v > 300) or "snow" in (r["tags"] or []))
            ),
        ),
        ("not not\n\tnot sharp = true", lambda r: r["sharp"] is not True),
    ],
)
@pytest.mark.parametrize("chunks", [1, 3])
def test_mask(text, passes, chunks):
    table = pa.concat_tables([TABLE.slice(first, 6 // chunks) for first in range(0, 6, 6 // chunks)])
    mask = parse_filter(text).mask(table)
    assert mask.dtype == bool
    assert mask.tolist() == [bool(passes(row)) for row in ROWS]


def random_filter(rng, depth):
    """A random filter as text, and the same in Python."""
    shape = rng.integers(0, 4) if depth else 3
    if shape == 0:
        text, test = random_filter(rng, depth - 1)
        return f"not ({text})", lambda row: not test(row)
    if shape < 3:
        parts = [random_filter(rng, depth - 1) for _ in range(rng.integers(2, 4))]
        word, join = ((" and ", all), (" or ", any))[shape - 1]
        return word.join(f"({text})" for text, _ in parts), lambda row: join(test(row) for _, test in parts)
    number = int(rng.integers(-6, 302))
    sign, test = (("<", lambda v: v < number), (">=", lambda v: v >= number), ("=", lambda v: v == number))[
        rng.integers(0, 3)
    ]
    return f"width {sign} {number}", lambda row: of(row, "width", test)


@pytest.mark.parametrize("seed", range(30))
def test_random_filters(seed):
    text, passes = random_filter(np.random.default_rng(seed), 4)
    assert parse_filter(text).mask(TABLE).tolist() == [passes(row) for row in ROWS]


def test_rows_of_any_number():
    assert parse_filter('label = "dog" or tags has "x"').mask(TABLE.slice(0, 0)).shape == (0,)
    # lists of a slice: their offsets do not begin at 0
    assert parse_filter('tags has "snow"').mask(TABLE.slice(2, 3)).tolist() == [False, True, False]


def test_a_column_without_values_fails_every_comparison():
    table = pa.table({"empty": pa.nulls(3), "lists": pa.array([[], None, []])})
    assert parse_filter("lists not has 1").mask(table).all()
    assert not parse_filter('empty = 1 or empty has "x" or empty like "*"').mask(table).any()
    assert parse_filter("empty != 1").mask(table).all()


def test_columns():
    assert parse_filter('a = 1 and not (b.c has "x" or `my column` in (1, 2) or a > 3)').columns == {
        "a",
        "b.c",
        "my column",
    }


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("", 1, "expected a column, found the end"),
        ("  ", 3, "expected a column, found the end"),
        ("label", 6, "expected one of = != < <= > >= in like has, found the end"),
        ("label = dog", 9, r"""a string stands in quotes \("dog"\)"""),
        ('label "dog"', 7, "expected one of ="),
        ("label = ", 9, "expected a string in quotes, a number, true or false, found the end"),
        ('label = "dog', 9, 'the " that opens here is not closed'),
        ("`label = 1", 1, "the ` that opens here is not closed"),
        ('label = "dog" label', 15, "expected and, or, or the end, found 'label'"),
        ('(label = "dog"', 15, r"expected and, or, or \), found the end"),
        ('label = "dog")', 14, r"expected and, or, or the end, found '\)'"),
        ("label & 3", 7, "did not expect '&'; write and"),
        ('label = "a" || width = 3', 13, r"did not expect '\|'; write or"),
        ('!label = "a"', 1, "did not expect '!'; write not"),
        ("width = 3px", 9, "did not expect '3px'"),
        ("width = 9223372036854775808", 9, "does not fit into 64 bits"),
        ("width in 3", 10, r"expected \( and values"),
        ("width in (3 4)", 13, r"expected , or \)"),
        ("width in ()", 11, "expected a string in quotes, a number"),
        ("label like 3", 12, "expected a string in quotes"),
        ("label not = 3", 11, "expected in, like or has"),
        ("and = 3", 1, "expected a column, found 'and'"),
        ("(" * 60 + "width = 3" + ")" * 60, 51, "more than 50 brackets and nots"),
        ("not " * 60 + "width = 3", 201, "more than 50 brackets and nots"),
        (
            'lable = "dog"',
            1,
            r"no column 'lable'; did you mean 'label'\? Columns: big \(uint64\), id \(string\), label \(string\)",
        ),
        (
            "label = 'x' and colour = 3",
            17,
            r"no column 'colour'. Columns: .*tags \(list<string>\), when .*, width \(int64\)",
        ),
        ("label = 3", 1, "column 'label' is string; compare it with a string, not with 3"),
        ("width = 1 or width > 'x'", 14, "column 'width' is int64; compare it with a number, not with 'x'"),
        ("width = true", 1, "column 'width' is int64; compare it with a number, not with true"),
        ("width in (1, 'x')", 1, "column 'width' is int64; compare it with a number, not with 'x'"),
        ("sharp = 1", 1, "column 'sharp' is bool; compare it with true or false, not with 1"),
        ("sharp > true", 1, "column 'sharp' is bool; compare it with = true or = false"),
        ("tags = 'snow'", 1, "column 'tags' is list<string>: write tags has"),
        ("tags has 3", 1, "column 'tags' is list<string>; compare it with a string, not with 3"),
        ("label has 'dog'", 1, "column 'label' is string: compare it with = or in"),
        ("width like 'x'", 1, "column 'width' is int64; like is for strings"),
        ("when = '2020'", 1, "column 'when' is date32.*filters know strings, numbers"),
    ],
)
def test_errors_say_where_and_what(text, at, message):
    table = TABLE.append_column("when", pa.nulls(6, pa.date32()))
    with pytest.raises(FilterError, match=f"^filter, character {at}: .*{message}"):
        parse_filter(text).mask(table)


@pytest.mark.parametrize("seed", range(40))
def test_no_text_breaks_the_parser(seed):
    rng = np.random.default_rng(seed)
    pieces = [
        "label",
        "=",
        '"x"',
        "(",
        ")",
        "and",
        "not",
        "in",
        ",",
        "3",
        "has",
        "'",
        '"',
        "\\",
        "`",
        "é",
        "-",
        ".",
        "!",
        "\n",
        "true",
    ]
    for _ in range(50):
        text = "".join(rng.choice(pieces, rng.integers(1, 12)))
        with contextlib.suppress(FilterError):  # which is all that may be raised
            assert parse_filter(text).mask(TABLE).shape == (6,)


def test_sql():
    where = parse_filter(
        "a = 'x' and not (b > 2.5 or c has 'y' or d in (1, 2)) and e like '50%*' and f = true and g < 'z'"
    )
    text, parameters = where.sql("postgres", lambda name: f'"{name}"')
    assert text == (
        '(coalesce("a" = %(w0)s, false) AND NOT (coalesce("b" > %(w1)s, false) OR coalesce(%(w2)s = ANY("c"), false) OR '
        'coalesce("d" IN (%(w3)s, %(w4)s), false)) AND coalesce("e" LIKE %(w5)s, false) AND coalesce("f" = %(w6)s, false) '
        'AND coalesce("g" COLLATE "C" < %(w7)s, false))'
    )
    assert parameters == {
        "w0": "x",
        "w1": 2.5,
        "w2": "y",
        "w3": 1,
        "w4": 2,
        "w5": r"50\%%",
        "w6": True,
        "w7": "z",
    }
    text, same = where.sql("clickhouse", lambda name: f"`{name}`")
    assert text == (
        "(ifNull(`a` = {w0:String}, 0) AND NOT (ifNull(`b` > {w1:Float64}, 0) OR ifNull(has(`c`, {w2:String}), 0) OR "
        "ifNull(`d` IN ({w3:Int64}, {w4:Int64}), 0)) AND ifNull(`e` LIKE {w5:String}, 0) AND ifNull(`f` = {w6:Bool}, 0) "
        "AND ifNull(`g` < {w7:String}, 0))"
    )
    assert same == parameters
    with pytest.raises(ValueError, match="dialect: 'oracle' is unknown; known are clickhouse, postgres"):
        where.sql("oracle", str)
