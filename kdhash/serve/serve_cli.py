"""`kdhash serve`: the API and the search page of an index."""

import argparse
import importlib
import ipaddress
import sys
from typing import Any

from kdhash.export.commands import carry_out

NEEDED = ("starlette", "uvicorn", "python_multipart")
EXAMPLES = """examples:
  kdhash serve photos.index                          # then open http://127.0.0.1:8000
  kdhash serve photos.index --model student --port 0 # another model folder, any free port
  curl -F picture=@cat.jpg -F k=5 http://127.0.0.1:8000/search

The API is described at /openapi.json. Ctrl-C or SIGTERM answers what has been asked, then ends.
"""


def add_parser(commands: Any) -> None:
    """The command 'serve'."""
    parser = commands.add_parser(
        "serve",
        help="a search page and a JSON API of an index",
        description="Serves INDEX on this machine: a search page, and a JSON API.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("index", metavar="INDEX", help="made by `kdhash index build`")
    add(
        "--model",
        metavar="MODEL",
        help="the model folder that makes codes of pictures and texts (default: the one that encoded the items, if it still "
        "lies where it lay)",
    )
    add("--no-model", action="store_true", help="load none: one searches by items and codes only")
    add(
        "--engine",
        default="exact",
        choices=["exact", "ivf"],
        help="exact (default), or ivf (see `kdhash index ivf`)",
    )
    add(
        "--model-engine",
        choices=["jax", "stablehlo", "onnx"],
        default="jax",
        help="what runs the model (default jax); onnx starts faster, and needs the extra 'onnx'",
    )
    add(
        "--batch-size",
        type=int,
        default=8,
        metavar="N",
        help="queries that the model sees at a time, at most (default 8; more pays on an accelerator)",
    )
    add("--host", default="127.0.0.1", help="the address to listen on (default 127.0.0.1: this machine only)")
    add("--port", type=int, default=8000, help="the port to listen on; 0 takes a free one (default 8000)")
    add(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="also answer requests that call this machine NAME; may be given several times",
    )
    add("--max-upload", metavar="MIB", type=float, default=16, help="the largest request in MiB (default 16)")
    add(
        "--threads",
        type=int,
        help="threads that read pictures and search (default: one a core, at least two)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serves until it is told to stop: 0. 2 after one line on standard error where it cannot start."""
    return carry_out(_serve, args)


def _serve(args: argparse.Namespace) -> int:
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError:
            raise ImportError(f"kdhash serve needs {name}: pip install 'kdhash[serve]'") from None
    from kdhash.retrieval.index import open_index
    from kdhash.serve.app import make_app
    from kdhash.serve.refusals import Limits
    from kdhash.serve.server import listen, run_server

    if args.threads is not None and args.threads < 1:
        raise ValueError(f"--threads is {args.threads}; give at least 1")
    if not 1 <= args.batch_size <= 1024:
        raise ValueError(f"--batch-size is {args.batch_size}; give 1 to 1024")
    if not 0.01 <= args.max_upload <= 1024:
        raise ValueError(f"--max-upload is {args.max_upload:g}; give 0.01 to 1024 MiB")
    index = open_index(args.index)
    # the port first: it is the likeliest to be refused, and a model takes seconds
    with _listen(args.host, args.port, listen) as listener:
        model = _model(args, index)
        guard = make_app(
            index,
            model,
            engine=args.engine,
            batch_size=args.batch_size,
            limits=Limits(upload=int(args.max_upload * 2**20)),
            hosts=allowed_hosts(args.host, args.allow_host),
            threads=args.threads,
        )
        guard.app.state.served.warm()
        if not is_loopback(args.host):
            _note(
                f"{args.host} can be reached by other machines, and there is no password: whoever reaches it sees all "
                "thumbnails and metadata"
            )

        def ready() -> None:
            takes = (
                {"image": "pictures", "image-text": "pictures and texts"}[model.kind] if model else "no model"
            )
            address = f"[{args.host}]" if ":" in args.host else args.host
            url = f"http://{address}:{listener.getsockname()[1]}"
            print(f"kdhash: {len(index):,} items, {index.bits} bits, {takes}; open {url}", flush=True)

        run_server(guard, listener, ready)
    return 0


def _model(args: argparse.Namespace, index: Any) -> Any:
    """The model that was given, or that the index remembers; None where there is none."""
    from kdhash.export.model import load_model
    from kdhash.export.queries import model_folder, remembered_models

    if args.no_model and args.model is not None:
        raise ValueError("--model and --no-model: give one of them")
    if args.no_model:
        return None
    try:
        folder = model_folder(index, args.model)
    except ValueError:
        if args.model is not None:
            raise
        lay = [f"the model that lay in {path} is not there any more" for path in remembered_models(index)[:1]]
        _note(
            f"{''.join(lay) or 'the index remembers no model'}; one searches by items and codes only, unless --model is given"
        )
        return None
    return load_model(folder, engine=args.model_engine, batch_size=args.batch_size)


def _note(message: str) -> None:
    print(f"kdhash: warning: {message}", file=sys.stderr)


def _listen(host: str, port: int, listen: Any) -> Any:
    if not 0 <= port <= 65535:
        raise ValueError(f"--port is {port}; give 0 to 65535")
    try:
        return listen(host, port)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(
            f"cannot listen on {host} port {port}: {reason}; choose another with --port"
        ) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def allowed_hosts(host: str, more: list[str]) -> list[str] | None:
    """Names that a Host header may carry; None for any, where other machines may ask and no names are given."""
    from kdhash.serve.guard import LOOPBACK

    names = [name.lower() for name in more]
    if is_loopback(host):
        own = f"[{host}]" if ":" in host else host
        return list(dict.fromkeys([*LOOPBACK, own, *names]))
    return names or None
