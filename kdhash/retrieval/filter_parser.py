"""The language of filters, read into comparisons and what joins them.

filter      = and { "or" and }
and         = not { "and" not }
not         = "not" not | "(" filter ")" | comparison
comparison  = column ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
            | column ["not"] "like" string         * stands for anything
            | column ["not"] "has" value           of a column of lists
            | column ["not"] "in" "(" value { "," value } ")"
value       = string in " or ' | number | true | false
"""

import re
from dataclasses import dataclass
from typing import Any, NoReturn

Value = str | int | float | bool

DEEPEST = 50  # brackets and nots inside each other
WORDS = ("and", "or", "not", "in", "like", "has", "true", "false")
TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])
    |(?P<quoted>`[^`]+`)
    |(?P<name>[^\W\d][\w.]*)
    |(?P<sign>==|!=|<=|>=|=|<|>|\(|\)|,)
    |(?P<end>$))""",
    re.VERBOSE | re.DOTALL,
)


class FilterError(ValueError):
    """A filter that cannot be read, or does not fit the columns; the message says at which character."""

    def __init__(self, at: int, message: str):
        super().__init__(f"filter, character {at + 1}: {message}")


@dataclass(frozen=True)
class Comparison:
    """column, one of = < <= > >= like has in, and the value, or several for `in`. at: where the column stands in the text."""

    column: str
    sign: str
    values: tuple[Value, ...]
    at: int


@dataclass(frozen=True)
class Not:
    part: Any


@dataclass(frozen=True)
class And:
    parts: tuple[Any, ...]


@dataclass(frozen=True)
class Or:
    parts: tuple[Any, ...]


def parse(text: str) -> Any:
    """The root of a filter: a Comparison, Not, And or Or. Raises FilterError where it cannot be read."""
    return _Parser(text).parse()


def comparisons(node: Any) -> list[Comparison]:
    """All comparisons of a filter, from left to right."""
    if isinstance(node, Comparison):
        return [node]
    parts = (node.part,) if isinstance(node, Not) else node.parts
    return [comparison for part in parts for comparison in comparisons(part)]


def like_pattern(text: str) -> str:
    r"""`*` stands for anything -> the pattern of SQL's LIKE, in which % does, and \ escapes."""
    return re.sub(r"([%_\\])", r"\\\1", text).replace("*", "%")


@dataclass(frozen=True)
class _Token:
    kind: str  # 'string', 'number', 'name', 'word', 'sign' or 'end'
    text: str
    at: int


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    place = 0
    while not found or found[-1].kind != "end":
        match = TOKEN.match(text, place)
        if match is None:
            at = place + len(text[place:]) - len(text[place:].lstrip())
            if text[at] in "\"'`":
                raise FilterError(at, f"the {text[at]} that opens here is not closed")
            hint = {"&": "; write and", "|": "; write or", "!": "; write not"}.get(text[at], "")
            word = re.match(r"[\w.+-]+|.", text[at:], re.DOTALL)
            raise FilterError(at, f"did not expect {word.group() if word else ''!r}{hint}")
        kind = str(match.lastgroup)
        body = match[kind]
        if kind == "name" and body.lower() in WORDS:
            kind, body = "word", body.lower()
        elif kind == "quoted":
            kind, body = "name", body[1:-1]
        elif kind == "string":
            body = re.sub(r"\\(.)", r"\1", body[1:-1], flags=re.DOTALL)
        found.append(_Token(kind, "=" if body == "==" else body, match.start(str(match.lastgroup))))
        place = match.end()
    return found


class _Parser:
    def __init__(self, text: str):
        self.tokens, self.place, self.depth = _tokens(text), 0, 0

    @property
    def here(self) -> _Token:
        return self.tokens[self.place]

    def took(self, *texts: str) -> str | None:
        """The next token, consumed, if it is one of these words or signs."""
        token = self.here
        if token.kind in ("word", "sign") and token.text in texts:
            self.place += 1
            return token.text
        return None

    def fail(self, expected: str) -> NoReturn:
        token = self.here
        found = "the end" if token.kind == "end" else repr(token.text)
        raise FilterError(token.at, f"expected {expected}, found {found}")

    def parse(self) -> Any:
        root = self.either()
        if self.here.kind != "end":
            self.fail("and, or, or the end")
        return root

    def either(self) -> Any:
        parts = [self.all()]
        while self.took("or"):
            parts.append(self.all())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def all(self) -> Any:
        parts = [self.negation()]
        while self.took("and"):
            parts.append(self.negation())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def negation(self) -> Any:
        self.depth += 1
        if self.depth > DEEPEST:
            raise FilterError(self.here.at, f"more than {DEEPEST} brackets and nots inside each other")
        if self.took("not"):
            node: Any = Not(self.negation())
        elif self.took("("):
            node = self.either()
            if not self.took(")"):
                self.fail("and, or, or )")
        else:
            node = self.comparison()
        self.depth -= 1
        return node

    def comparison(self) -> Any:
        column = self.here
        if column.kind != "name":
            self.fail("a column")
        self.place += 1
        negated = bool(self.took("not"))
        sign = self.took("in", "like", "has", *(() if negated else ("=", "!=", "<", "<=", ">", ">=")))
        if sign is None:
            self.fail("in, like or has" if negated else "one of = != < <= > >= in like has")
        if sign == "in":
            if not self.took("("):
                self.fail("( and values")
            values = [self.value()]
            while self.took(","):
                values.append(self.value())
            if not self.took(")"):
                self.fail(", or )")
        else:
            values = [self.value(of_string=sign == "like")]
        negated |= sign == "!="
        node = Comparison(column.text, "=" if sign == "!=" else sign, tuple(values), column.at)
        return Not(node) if negated else node

    def value(self, of_string: bool = False) -> Value:
        token = self.here
        if token.kind == "name":
            self.fail(f'a value; a string stands in quotes ("{token.text}")')
        if token.kind == "string":
            self.place += 1
            return token.text
        if of_string:
            self.fail("a string in quotes")
        if token.kind == "number":
            self.place += 1
            number = int(token.text) if re.fullmatch(r"-?\d+", token.text) else float(token.text)
            if abs(number) >= 2**63 and isinstance(number, int):
                raise FilterError(token.at, f"{number} does not fit into 64 bits")
            return number
        word = self.took("true", "false")
        if word is None:
            self.fail("a string in quotes, a number, true or false")
        return word == "true"
