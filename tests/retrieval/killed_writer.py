"""Kills writers of an index at every step that reaches the disk, and lets every third such step fail; prints how many left the
old index and how many the new one.

python tests/retrieval/killed_writer.py EMPTY_FOLDER
"""

import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kdhash.retrieval.index import open_index
from kdhash.retrieval.verify_index import verify_index
from kdhash.retrieval.write_index import add_items, build_index, delete_items, merge_segments
from tests.retrieval.index_data import make_codes

os.fsync = lambda file: None  # processes end here, not machines: nobody waits for the disk
STEPS = ("fsync", "rename", "replace", "rmdir")
KILLED, FAILED, DONE = 9, 8, 0


def interrupted(change, at, failing):
    """Runs `change` in a process that ends, or whose call fails with an OSError, at the `at`-th step; its exit status."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    count = 0

    def wrap(function):
        def step(*arguments, **options):
            nonlocal count
            count += 1
            if count == at and not failing:
                os._exit(KILLED)
            if count == at:
                raise OSError("No space left on device")
            return function(*arguments, **options)

        return step

    for name in STEPS:
        setattr(os, name, wrap(getattr(os, name)))
    try:
        change()
    except OSError as error:
        os._exit(FAILED if "No space" in str(error) else 1)
    except BaseException:  # noqa: BLE001
        import traceback

        traceback.print_exc()
        os._exit(1)
    # a step that only clears away may fail without harm
    os._exit(DONE if count < at else FAILED)


def state(path):
    """What an index holds, {id: width}; None where there is none."""
    if not path.exists():
        return None
    assert verify_index(path).problems == []
    index = open_index(path)
    numbers = [n for s in index.segments for n in (s.numbers if s.deleted is None else s.numbers[~s.deleted])]
    return {row["id"]: row["width"] for row in index.rows(numbers, ["id", "width"]).to_pylist()}


def main(root):
    ids = [f"img {i}" for i in range(12)]
    old, new = root / "old", root / "new"
    make_codes(old, ids[:8], thumbs=True)
    make_codes(new, ids[8:])
    newer = make_codes(root / "newer", ids[2:10], version=1, thumbs=True)
    start = root / "start"
    build_index(old, start)
    add_items(start, new)
    delete_items(start, ids[5:6])
    changes = {
        "build": (lambda path: build_index([old, new], path), False),
        "add": (lambda path: add_items(path, make_codes(root / f"more {os.getpid()}", ["x", "y"])), True),
        "replace": (lambda path: add_items(path, newer, replace=True), True),
        "delete": (lambda path: delete_items(path, [*ids[:3], *ids[8:]]), True),
        "merge": (merge_segments, True),
    }
    ended = {}
    for kind, (change, there) in changes.items():
        make_start(start, root / "wanted", there)
        change(root / "wanted")
        before, after = state(start) if there else None, state(root / "wanted")
        segments = {"old": 0, "new": 0}
        for failing in (False, True):
            for at in range(1, 1000, 3 if failing else 1):
                path = root / "index"
                make_start(start, path, there)
                generation = open_index(path).generation if there else 0
                status = interrupted(lambda change=change, path=path: change(path), at, failing)
                if status == DONE:
                    break
                assert status == (FAILED if failing else KILLED), (kind, at, failing, status)
                found = state(path)
                moved = path.exists() and open_index(path).generation != generation
                assert found == (after if moved else before), (kind, at, failing, found)
                segments["new" if moved else "old"] += 1
                if not there and not moved:
                    change(path)  # as if it had been started again
                    assert state(path) == after
                    assert not [entry for entry in root.iterdir() if "building" in entry.name]
                if there and (at % 3 == 0 or failing):
                    # the next writer finds an index, no lock, and clears away what was begun
                    add_items(path, make_codes(root / "next", ["next"]))
                    shutil.rmtree(root / "next")
                    names = {segment.name for segment in open_index(path).segments}
                    assert {entry.name for entry in path.iterdir()} == names | {"manifest.json", "lock"}
                    assert set(state(path)) == set(found) | {"next"}
            else:
                raise AssertionError(f"{kind} never ends")
        shutil.rmtree(root / "wanted")
        ended[kind] = segments["old"], segments["new"]
    print(json.dumps(ended))


def make_start(start, path, there):
    shutil.rmtree(path, ignore_errors=True)
    if there:
        shutil.copytree(start, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
