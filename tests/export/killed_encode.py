"""Encodes again and again, killed each time one step later, and looks at what is left: `killed_encode.py FOLDER`.

A step is a call of the model, a rename, or a flush to the disk. Prints how many steps there were.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute  # noqa: F401
from PIL import Image

from kdhash.export import encode as encoding
from kdhash.export.encode_rows import Settings
from kdhash.export.encode_sources import open_source
from kdhash.retrieval.index import open_index
from tests.export.stand_in import StandIn, contents

# what children would import is imported once
Image.init()
pa.array([0])
SETTINGS = Settings(batch_size=4, block_rows=8, workers=2)


def encode(source, out, dies_at=0):
    """One run, into a folder of codes or (by its name) an index, in a process of its own, which kills itself at the step
    `dies_at`. Whether it came to its end."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    try:
        steps = 0

        def counted(function):
            def call(*arguments, **options):
                nonlocal steps
                steps += 1
                if steps == dies_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **options)

            return call

        model = StandIn()
        model.encode_pictures = counted(model.encode_pictures)
        os.rename, os.replace = counted(os.rename), counted(os.replace)
        os.fsync = counted(lambda descriptor: None)  # a kill loses nothing that was written
        if out.name.endswith("index"):
            encoding.update_index(model, open_source(source), out, SETTINGS, delete=True)
        else:
            encoding.encode(model, open_source(source), out, SETTINGS)
        os._exit(0)
    finally:
        os._exit(1)


def sweep(pictures, before, out, looked_at, allowed, stride):
    """Kills at every `stride`-th step of a run that changes `before` (or nothing) to `allowed[-1]`; how many steps there are."""
    step, finished = 0, False
    while not finished:
        step += stride
        shutil.rmtree(out, ignore_errors=True)
        if before:
            shutil.copytree(before, out)
        finished = encode(pictures, out, step)
        # between two renames there may be no folder, but never half of one
        if out.exists():
            assert looked_at(out) in allowed, f"{out.name}, step {step}: neither the old one nor the new one"
        else:
            partial = out.with_name(f"{out.name}.partial")
            assert before is None or (partial / "old").is_dir(), f"{out.name}, step {step}: gone"
        assert encode(pictures, out), f"{out.name}, step {step}: the next run fails"
        assert looked_at(out) == allowed[-1], f"{out.name}, step {step}: the next run ends elsewhere"
        assert not out.with_name(f"{out.name}.partial").exists()
    return step


def rows_of(index):
    """{id: (code, metadata)} of an index, whatever its segments are called; numbers depend on how often it was written."""
    opened = open_index(index)
    rows = {}
    for segment in opened.segments:
        for row, facts in enumerate(segment.table.to_pylist()):
            if segment.deleted is None or not segment.deleted[row]:
                rows[facts["id"]] = (segment.codes[row].tobytes(), segment.thumbnail(row), facts)
    return rows


def main():
    root = Path(sys.argv[1])
    pictures, before = root / "pictures", root / "before"
    new, again = root / "whole-new", root / "whole-again"
    shutil.copytree(before, again)
    assert encode(pictures, new)
    assert encode(pictures, again)
    print("new", sweep(pictures, None, root / "new", contents, [contents(new)], 3))
    print("again", sweep(pictures, before, root / "again", contents, [contents(before), contents(again)], 1))
    index = root / "before-index"
    added, whole = root / "added-index", root / "whole-index"
    for target in (added, whole):
        shutil.copytree(index, target)
    encoding.update_index(
        StandIn(), open_source(pictures), added, SETTINGS
    )  # before what is gone is taken out
    assert encode(pictures, whole)
    allowed = [rows_of(index), rows_of(added), rows_of(whole)]
    print("index", sweep(pictures, index, root / "index", rows_of, allowed, 2))


main()
