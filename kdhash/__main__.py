"""The tools: python -m kdhash COMMAND. Training runs are `python -m kdhash.main`."""

import argparse
import os
import sys


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    from kdhash.data import cli as data_cli  # each room brings its own commands
    from kdhash.export import encode_cli, eval_cli, export_cli, search_cli
    from kdhash.retrieval import dups_cli, index_cli
    from kdhash.serve import serve_cli
    from kdhash.teachers import cli as teachers_cli
    from kdhash.teachers import features_cli

    parser = argparse.ArgumentParser(
        prog="kdhash",
        description="Small binary codes that search like big models. To train: python -m kdhash.main --help",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    data_cli.add_parser(commands)
    teachers_cli.add_parser(commands)
    features_cli.add_parser(commands)
    export_cli.add_parser(commands)
    encode_cli.add_parser(commands)
    index_cli.add_parser(commands)
    search_cli.add_parser(commands)
    dups_cli.add_parser(commands)
    eval_cli.add_parser(commands)
    serve_cli.add_parser(commands)
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except BrokenPipeError:  # `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
