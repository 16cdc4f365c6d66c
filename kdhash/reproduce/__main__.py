"""python -m kdhash.reproduce NAME: one table from nothing. And: tables (pages from the files), robustness."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from kdhash.reproduce.plan import CACHE, DATA, RESULTS, SEEDS, TABLES, WEIGHTS, WORKDIR, Places, planned
from kdhash.reproduce.start import ROOT, chosen, is_done, reproduce

PAGES = ("README.md", "docs/results.md", "docs/performance.md")
PARETO = "docs/figures/pareto.png"
# Whose students robustness looks at.
ROBUST = ("dmth-resnets", "cifar10-2-64bits")


def main(argv: list[str] | None = None) -> int:
    """Returns 0, 1 where runs failed, 2 for a mistake in what was asked, 130 where it was stopped (Ctrl-C, SIGTERM)."""
    args = _parser().parse_args(argv)
    try:
        if args.parallel < 1:
            raise ValueError(f"--parallel {args.parallel}: must be 1 or more")
        if args.name not in TABLES and (args.list or args.only):
            raise ValueError(f"{args.name} takes neither --list nor --only: it is no table of runs")
        if len(set(args.seeds)) < len(args.seeds):
            raise ValueError(f"--seeds {' '.join(map(str, args.seeds))}: each seed once")
        if args.name == "tables":
            write_tables(Path(args.results), [Path(page) for page in args.page], Path(args.figure))
            return 0
        if args.name == "robustness":
            return _robustness(args)
        runs = chosen(planned(args.name, args.seeds), args.only)
        if args.list:
            for run in runs:
                print("done   " if is_done(args.name, run, Path(args.results)) else "not run", run.name)
            sys.stdout.flush()  # here, where a closed pipe is caught
            return 0
        _needs_configs()
        failed = reproduce(args.name, runs, _places(args), Path(args.results), parallel=args.parallel)
    except BrokenPipeError:  # `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("kdhash.reproduce: stopped; the same command goes on", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"kdhash.reproduce: {error}", file=sys.stderr)
        return 2
    if failed:
        print(
            f"kdhash.reproduce: failed: {', '.join(failed)}; the same command tries them again",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kdhash.reproduce",
        description="Redoes a table of docs/results.md from nothing: each of its runs is a process of the main job, which "
        "resumes in its own workdir, and leaves a small file in results/. A run whose file is there is not run again.",
    )
    names = (*TABLES, "robustness", "tables")
    parser.add_argument("name", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--workdir", default=WORKDIR, help="of all runs: WORKDIR/NAME/RUN")
    parser.add_argument("--data_dir", default=DATA)
    parser.add_argument("--weights_dir", default=WEIGHTS)
    parser.add_argument(
        "--cache_dir", default=None, help="features of frozen networks, for all runs; default WORKDIR/cache"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--only", nargs="+", metavar="RUN", help="these runs alone; * stands for anything")
    parser.add_argument("--results", default=RESULTS, help="the folder of small files")
    parser.add_argument(
        "--parallel",
        type=int,
        default=1,
        metavar="N",
        help="so many runs at a time, as an accelerator allows",
    )
    parser.add_argument("--list", action="store_true", help="say which runs there are, and which are done")
    parser.add_argument(
        "--page", nargs="+", default=list(PAGES), help="of 'tables': the pages whose markers are filled"
    )
    parser.add_argument("--figure", default=PARETO, help="of 'tables': where the Pareto plot goes")
    parser.add_argument("--queries", type=int, default=0, help="of 'robustness': so many; 0 for all")
    return parser


def _places(args: argparse.Namespace) -> Places:
    cache = args.cache_dir or (CACHE if args.workdir == WORKDIR else f"{args.workdir}/cache")
    return Places(args.workdir, args.data_dir, args.weights_dir, cache)


def _needs_configs() -> None:
    if not (ROOT / "configs").is_dir():
        raise ValueError(
            f"no configs/ beside kdhash in {ROOT}: run it from a checkout, installed with pip install -e ."
        )


def write_tables(results: Path, pages: Sequence[Path], figure: Path) -> None:
    """Fills the markers of `pages` from `results`, and draws the Pareto plot once there is something to draw."""
    from kdhash.reproduce import pareto
    from kdhash.reproduce.blocks import blocks
    from kdhash.reproduce.pooled import read_all
    from kdhash.reproduce.tables import fill

    found = blocks(results)
    filled = {page: fill(page.read_text(), found) for page in pages}  # a mistake in one changes none
    for page, text in filled.items():
        _replace(page, text.encode())
        print(f"{page}: written", flush=True)
    points = pareto.points_of(read_all(results, pareto.TABLES))
    if points:
        figure.parent.mkdir(parents=True, exist_ok=True)
        _replace(figure, pareto.figure(points))
        print(f"{figure}: {len(points)} rows", flush=True)


def _robustness(args: argparse.Namespace) -> int:
    """Of the runs of ROBUST, which must be finished in the workdir."""
    import jax

    from kdhash.reproduce import condense, robustness
    from kdhash.reproduce.configs import load_config

    table, group = ROBUST
    runs = [run for run in planned(table, args.seeds) if run.group == group]
    places = _places(args)
    folders = [Path(places.workdir) / table / run.name for run in runs]
    for folder in folders:
        robustness.check_finished(folder)
    configs = [load_config(run, places) for run in runs]
    devices = configs[0].host_devices  # as kdhash.main sets them up; other platforms ignore it
    os.environ.setdefault("PJRT_NPROC", str(2 * devices))
    jax.config.update("jax_num_cpu_devices", devices)
    for run, config, folder in zip(runs, configs, folders, strict=True):
        measured = robustness.measure(config, folder, queries=args.queries)
        path = Path(args.results) / "robustness" / f"{run.name}.json"
        head = {"table": "robustness", "run": run.name, "group": group}
        head["command"] = (
            f"python -m kdhash.reproduce {table} --only {run.name}; python -m kdhash.reproduce robustness"
            + (f" --queries {args.queries}" if args.queries else "")
        )
        condense.write(path, head | measured)
        print(f"{path}: written", flush=True)
    return 0


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
