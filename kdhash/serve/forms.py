"""What a request brings along: the fields of a form, and of an address."""

from collections.abc import Collection
from typing import Any

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from kdhash.serve import questions
from kdhash.serve.refusals import Refused


async def read_form(request: Request) -> tuple[dict[str, Any], bytes | None]:
    """(fields, bytes of the picture) of a multipart body. Raises Refused: 400 for no form, 422 for fields not as agreed."""

    class InMemory(MultiPartParser):
        spool_max_size = 2**40  # uploads are bounded already, and are nobody's business on disk

    parser = InMemory(
        request.headers, request.stream(), max_files=1, max_fields=len(questions.OPTIONS), max_part_size=2**16
    )
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError) as error:
        reason = error.message if isinstance(error, MultiPartException) else "it is no multipart form"
        raise Refused(400, f"the form cannot be read: {reason}") from error
    names = [name for name, _ in form.multi_items()]
    if len(set(names)) < len(names):
        raise Refused(422, "the form has a field twice; send each once")
    texts = {name: value for name, value in form.items() if isinstance(value, str)}
    uploads = {name: value for name, value in form.items() if not isinstance(value, str)}
    questions.check_names(uploads, ("picture",))
    data = await uploads["picture"].read() if uploads else None
    return questions.from_text(texts), data


def address_fields(request: Request, known: Collection[str]) -> dict[str, Any]:
    """The fields of an address. Raises Refused 422 for one that is not `known`, or is there twice."""
    items = request.query_params.multi_items()
    questions.check_names([name for name, _ in items], known)
    if len({name for name, _ in items}) < len(items):
        raise Refused(422, "the address has a field twice; give each once")
    return questions.from_text(dict(items))
