import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from kdhash.retrieval import index as index_module
from kdhash.retrieval import items as items_module
from kdhash.retrieval import verify_index as verify_module
from kdhash.retrieval import write_index
from kdhash.retrieval.index import open_index
from kdhash.retrieval.index_lock import IndexBusy, write_lock
from kdhash.retrieval.items import DuplicateIds
from kdhash.retrieval.mapped import DamagedFile
from kdhash.retrieval.verify_index import verify_index
from kdhash.retrieval.write_index import add_items, build_index, delete_items, merge_segments
from tests.retrieval.index_data import as_pairs, brute_force, codes_of_ids, damages, facts_of_ids, make_codes

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)


def content_of(path):
    """{number: (id, label, width, thumbnail)} of an index."""
    index = open_index(path)
    numbers = [n for s in index.segments for n in (s.numbers if s.deleted is None else s.numbers[~s.deleted])]
    assert len(numbers) == len(index)
    rows = index.rows(numbers, ["id", "label", "width"]).to_pylist()
    return {
        row["number"]: (row["id"], row["label"], row["width"], index.thumbnail(row["number"])) for row in rows
    }


def expected_item(name, version, thumb):
    [row] = facts_of_ids([name], version).to_pylist()
    return name, row["label"], row["width"], thumb


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_changes(tmp_path, monkeypatch, seed):
    """Against a dictionary. Seed 0 has keys that all collide; few segments are allowed, so that additions merge too."""
    if seed == 0:
        for module in (items_module, index_module, verify_module):
            monkeypatch.setattr(module, "id_keys", lambda ids: np.zeros(len(ids), np.uint64))
    monkeypatch.setattr(write_index, "MOST_SEGMENTS", 3)
    rng = np.random.default_rng(seed)
    pool, expected, next_number, path = [f"img {i}.jpg" for i in range(40)], {}, 0, tmp_path / "index"
    for step in range(25):
        live = {item[0]: number for number, item in expected.items()}
        kind = (
            "build"
            if step == 0
            else rng.choice(["add", "replace", "delete", "merge"], p=[0.4, 0.2, 0.3, 0.1])
        )
        some = [str(name) for name in rng.choice(pool, rng.integers(1, 9), replace=False)]
        if kind in ("build", "add"):
            some = [name for name in some if name not in live]
        if kind == "delete":
            done = delete_items(path, some)
            assert (done.deleted, done.unknown) == (
                len(live.keys() & set(some)),
                [n for n in some if n not in live],
            )
            for name in live.keys() & set(some):
                del expected[live[name]]
        elif kind == "merge":
            assert len(merge_segments(path).segments) == min(1, len(expected))
        else:
            with_thumbs = bool(rng.integers(0, 2))
            folder = make_codes(tmp_path / f"codes {step}", some, step, thumbs=with_thumbs)
            if kind == "build":
                build_index(folder, path)
            else:
                done = add_items(path, folder, kind == "replace")
                assert done == (len(some), len(live.keys() & set(some)))
            for i, name in enumerate(some):
                expected.pop(live.get(name), None)
                thumb = f"jpeg of {name}".encode() if with_thumbs and i % 3 else None
                expected[next_number + i] = expected_item(name, step, thumb)
            next_number += len(some)
        assert content_of(path) == expected
        index = open_index(path)
        assert len(index.segments) <= 6  # 3, or as many as halve in size
        numbers = sorted(expected)
        query = codes_of_ids([pool[0], "new"])
        codes = codes_of_ids([expected[number][0] for number in numbers])
        assert as_pairs(index.search(query, k=6)) == [brute_force(codes, numbers, one, 6) for one in query]
        assert verify_index(path).problems == []
    leftovers = {entry.name for entry in path.iterdir()} - {segment.name for segment in index.segments}
    assert leftovers == {"manifest.json", "lock"}


def test_build_of_several_folders(tmp_path):
    ids = [f"{i}" for i in range(9)]
    folders = [make_codes(tmp_path / f"c{i}", ids[3 * i : 3 * i + 3]) for i in range(3)]
    seen = []
    index = build_index(
        folders, tmp_path / "deep" / "index", progress=lambda done, total: seen.append((done, total))
    )
    assert index.rows(range(9))["id"].to_pylist() == ids
    assert {(3, 9), (6, 9), (9, 9)} <= set(seen)
    assert seen == sorted(seen)
    with pytest.raises(FileExistsError, match="already there; `kdhash index add` adds to it"):
        build_index(folders, tmp_path / "deep" / "index")


def test_an_index_of_nothing(tmp_path):
    make_codes(tmp_path / "none", [])
    make_codes(tmp_path / "one", ["a"])
    index = build_index(tmp_path / "none", tmp_path / "index")
    assert (len(index), index.search(codes_of_ids(["a"])).counts.tolist()) == (0, [0])
    assert verify_index(index.path).problems == []
    add_items(index.path, tmp_path / "one")
    delete_items(index.path, ["a"])
    assert len(merge_segments(index.path)) == 0
    add_items(index.path, tmp_path / "one")
    assert index.refresh().number_of("a") == 1
    with pytest.raises(ValueError, match="no folder of codes"):
        build_index([], tmp_path / "other")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"model": "other"},
            "has model other, .*index has m: their codes cannot be compared; encode the items with",
        ),
        ({"model": ""}, r"has model none \(codes from elsewhere\), .*index has m"),
        ({"bits": 32}, "has bits 32, .*index has 64"),
        ({"preprocessing": "q"}, r"has preprocessing q, .*index has none"),
    ],
)
def test_codes_that_cannot_be_compared_are_refused(tmp_path, facts, message):
    make_codes(tmp_path / "a", ["a"])
    make_codes(tmp_path / "b", ["b"], **facts)
    build_index(tmp_path / "a", tmp_path / "index")
    before = content_of(tmp_path / "index")
    with pytest.raises(ValueError, match=message):
        add_items(tmp_path / "index", tmp_path / "b")
    with pytest.raises(ValueError, match=message.replace("index has", "a has")):
        build_index([tmp_path / "a", tmp_path / "b"], tmp_path / "other")
    assert content_of(tmp_path / "index") == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"a", "b", "index"}


def test_another_bit_order_is_refused(tmp_path, monkeypatch):
    make_codes(tmp_path / "a", ["a"])
    monkeypatch.setattr(items_module, "BIT_ORDER", "lsb-first")
    make_codes(tmp_path / "b", ["b"])
    build_index(tmp_path / "a", tmp_path / "index")
    with pytest.raises(ValueError, match="has bit order lsb-first, .*index has msb-first"):
        add_items(tmp_path / "index", tmp_path / "b")
    with pytest.raises(ValueError, match="has bit order lsb-first, .*has msb-first"):
        build_index(tmp_path / "b", tmp_path / "other")


def test_a_column_of_another_type_is_refused(tmp_path):
    from kdhash.retrieval.items import write_items

    make_codes(tmp_path / "a", ["a"])
    table = facts_of_ids(["b"]).drop(["width"])
    write_items(tmp_path / "b", codes_of_ids(["b"]), table.append_column("width", [["wide"]]), model="m")
    build_index(tmp_path / "a", tmp_path / "index")
    with pytest.raises(
        ValueError, match="column 'width' is string in .*b, and int64 in .*index; convert or rename it"
    ):
        add_items(tmp_path / "index", tmp_path / "b")


def test_ids_that_are_there_are_refused_and_listed(tmp_path):
    make_codes(tmp_path / "a", ["a", "b", "c"])
    make_codes(tmp_path / "b", ["d", "c", "a"])
    build_index(tmp_path / "a", tmp_path / "index")
    with pytest.raises(DuplicateIds, match="has these ids already .--replace .*: 'a', 'c'") as refusal:
        add_items(tmp_path / "index", tmp_path / "b")
    assert refusal.value.ids == ["a", "c"]
    with pytest.raises(DuplicateIds, match="b: ids that an earlier folder has too: 'a', 'c'"):
        build_index([tmp_path / "a", tmp_path / "b"], tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert open_index(tmp_path / "index").generation == 1


def test_damaged_codes_are_not_added(tmp_path):
    make_codes(tmp_path / "a", ["a"])
    folder = make_codes(tmp_path / "b", ["b", "c"], thumbs=True)
    build_index(tmp_path / "a", tmp_path / "index")
    before = sorted(entry.name for entry in (tmp_path / "index").rglob("*"))
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for changed in damages(content):
            path.write_bytes(changed)
            with pytest.raises(DamagedFile, match=path.name):
                add_items(tmp_path / "index", folder)
        path.write_bytes(content)
    assert sorted(entry.name for entry in (tmp_path / "index").rglob("*")) == before
    assert add_items(tmp_path / "index", folder).added == 2


def test_what_is_no_index_is_not_written_to(tmp_path):
    for change in (lambda: delete_items(tmp_path, ["a"]), lambda: merge_segments(tmp_path)):
        with pytest.raises(FileNotFoundError, match="has no manifest.json; kdhash index build makes"):
            change()
    assert list(tmp_path.iterdir()) == []


def test_many_additions_are_merged_a_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(write_index, "MOST_SEGMENTS", 8)
    make_codes(tmp_path / "a", [f"old {i}" for i in range(200)])
    build_index(tmp_path / "a", tmp_path / "index")
    large = open_index(tmp_path / "index").segments[0].name
    for i in range(40):
        add_items(tmp_path / "index", make_codes(tmp_path / f"{i}", [f"new {i} a", f"new {i} b"]))
        index = open_index(tmp_path / "index")
        assert len(index.segments) <= 8
        # what is large is not copied for the sake of what is small
        assert index.segments[0].name == large
    assert index.number_of("new 39 b") == 279


def test_writers_that_are_killed_or_fail_leave_the_old_index_or_the_new_one(tmp_path):
    """In processes of their own, at every step that reaches the disk; see killed_writer.py."""
    command = [sys.executable, str(HERE / "killed_writer.py"), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parents[1])
    assert result.returncode == 0, result.stderr
    steps = json.loads(result.stdout)
    assert set(steps) == {"build", "add", "replace", "delete", "merge"}
    assert all(old > 2 and new > 0 for old, new in steps.values()), steps


def test_two_readers_while_a_writer_writes(tmp_path):
    """Real processes. Every state that a reader sees is whole: batches of ten items, each with the code of its id."""
    path = tmp_path / "index"

    def batch(number):
        return [f"{number}/{i}" for i in range(10)]

    build_index(make_codes(tmp_path / "0", batch(0)), path)
    command = [sys.executable, str(HERE / "watching_reader.py"), str(path), str(tmp_path / "stop")]
    readers = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE.parents[1]
        )
        for _ in range(2)
    ]
    seen = [[], []]  # the generations that each has found whole, as it says
    for reader, lines in zip(readers, seen, strict=True):
        threading.Thread(
            target=lambda r=reader, to=lines: to.extend(iter(r.stdout.readline, "")), daemon=True
        ).start()
    try:
        deadline = time.monotonic() + 60
        while not all(seen) and time.monotonic() < deadline and not any(reader.poll() for reader in readers):
            time.sleep(0.05)
        for number in range(1, 10_000):
            add_items(path, make_codes(tmp_path / f"{number}", batch(number)))
            if number % 3 == 0:
                delete_items(path, batch(number - 2))
                merge_segments(path)
            if min(map(len, seen)) >= 8 or time.monotonic() > deadline:
                break
            time.sleep(0.01)
        (tmp_path / "stop").touch()
        errors = [reader.stderr.read() for reader in readers]
        assert [reader.wait(timeout=60) for reader in readers] == [0, 0], errors
    finally:
        for reader in readers:
            reader.kill()
    assert min(map(len, seen)) >= 8


def test_a_second_writer_waits_and_is_then_refused(tmp_path):
    build_index(make_codes(tmp_path / "a", ["a"]), tmp_path / "index")
    make_codes(tmp_path / "b", ["b"])
    program = (
        "import sys; from pathlib import Path; from kdhash.retrieval.index_lock import write_lock\n"
        f"with write_lock(Path({str(tmp_path / 'index')!r})):\n    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            IndexBusy, match=f"index is being written to by process {holder.pid} .*waited 0.1 s, try again"
        ):
            add_items(tmp_path / "index", tmp_path / "b", timeout=0.1)
        assert len(open_index(tmp_path / "index")) == 1  # readers do not wait
        threading.Timer(0.3, holder.stdin.close).start()
        add_items(tmp_path / "index", tmp_path / "b", timeout=30)
        assert len(open_index(tmp_path / "index")) == 2
    finally:
        holder.kill()
        holder.wait()


def test_a_killed_writer_holds_no_lock(tmp_path):
    program = (
        "import os; from pathlib import Path; from kdhash.retrieval.index_lock import write_lock\n"
        f"with write_lock(Path({str(tmp_path)!r})):\n    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 9
    with (
        write_lock(tmp_path, timeout=0),
        pytest.raises(IndexBusy, match="by process "),
        write_lock(tmp_path, timeout=0),
    ):
        pass
