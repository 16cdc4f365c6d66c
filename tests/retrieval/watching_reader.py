"""Opens an index again and again until a file appears, and checks every state that it sees; prints their generations.

python tests/retrieval/watching_reader.py INDEX STOP
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kdhash.retrieval.index import open_index
from tests.retrieval.index_data import codes_of_ids


def check(index):
    """Ids come in batches of ten, and every item has the code of its id."""
    numbers = [
        n
        for s in index.segments
        for n in (s.numbers if s.deleted is None else s.numbers[~s.deleted]).tolist()
    ]
    ids = index.rows(numbers, ["id"])["id"].to_pylist()
    assert len(ids) == len(set(ids)) == len(index), ids
    assert len(ids) % 10 == 0, ids
    codes = codes_of_ids(ids[:10] + ids[-10:])
    assert (index.codes_of(numbers[:10] + numbers[-10:]) == codes).all()
    found = index.search(codes, k=len(ids))
    assert (found.distances[:, 0] == 0).all()
    assert (found.counts == len(ids)).all()
    return found


def main(path, stop):
    seen, index, first = set(), None, open_index(path)
    answer = check(first)
    while not stop.exists():
        index = open_index(path) if index is None or len(seen) % 2 else index.refresh()
        if index.generation not in seen:
            check(index)
            seen.add(index.generation)
            print(index.generation, flush=True)
    # what was opened at the beginning has not changed, and its files are still there to read
    assert (check(first).numbers == answer.numbers).all()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
