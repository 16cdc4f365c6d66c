import time

import numpy as np
import pytest

from kdhash.retrieval.hamming import hamming_distances
from kdhash.retrieval.index import open_index
from kdhash.retrieval.write_index import add_items, build_index, delete_items
from kdhash.serve import duplicates
from kdhash.serve import served as served_module
from kdhash.serve.refusals import Limits
from tests.serve.stand_ins import write_digits


def components(numbers, codes, radius):
    """Groups of at least two items that are joined by pairs within `radius`, as sets."""
    near = hamming_distances(codes, codes) <= radius
    groups, left = [], set(range(len(numbers)))
    while left:
        group, front = set(), {left.pop()}
        while front:
            group |= front
            front = {int(row) for one in front for row in np.flatnonzero(near[one])} - group
        left -= group
        if len(group) > 1:
            groups.append(frozenset(int(numbers[row]) for row in group))
    return set(groups)


@pytest.mark.parametrize("radius", [0, 4, 8])
def test_groups_are_those_of_all_pairs_without_deleted_items(make_client, tmp_path, monkeypatch, radius):
    monkeypatch.setattr(duplicates, "SHOWN", 1000)
    folder = tmp_path / "index"
    build_index(write_digits(tmp_path / "items", 100), folder)
    delete_items(folder, [f"digits/{number}.png" for number in range(0, 100, 9)])
    add_items(folder, write_digits(tmp_path / "more", 60, first=100))
    index = open_index(folder)
    numbers = np.array([number for number in range(160) if number >= 100 or number % 9])
    expected = components(numbers, index.codes_of(numbers), radius)
    answer = make_client(served=index).get(f"/duplicates?radius={radius}&groups=200").json()
    found = answer["groups"]
    assert {frozenset(item["number"] for item in group["items"]) for group in found} == expected
    assert radius == 0 or len(expected) > 1
    assert [group["count"] for group in found] == sorted((len(group) for group in expected), reverse=True)
    assert answer["groups_total"] == len(expected)
    assert answer["items_total"] == sum(map(len, expected))
    for group in found:
        first = int(group["items"][0]["code"], 16)
        distances = [(int(item["code"], 16) ^ first).bit_count() for item in group["items"]]
        assert [item["distance"] for item in group["items"]] == distances == sorted(distances)
        assert group["items"][0]["number"] == min(item["number"] for item in group["items"])


def test_an_answer_is_bounded(make_client, index, monkeypatch):
    monkeypatch.setattr(duplicates, "SHOWN", 3)
    whole = make_client().get("/duplicates?radius=8").json()
    answer = make_client().get("/duplicates?radius=8&groups=1").json()
    assert len(answer["groups"]) == 1
    assert len(answer["groups"][0]["items"]) == 3
    assert answer["groups"][0]["count"] > 3
    assert answer["groups_total"] == whole["groups_total"] > 1


def test_each_state_of_an_index_is_looked_through_once(make_client, tmp_path, monkeypatch):
    monkeypatch.setattr(served_module, "REFRESH_SECONDS", 0.0)
    looked, find = [], duplicates.find_groups
    monkeypatch.setattr(
        duplicates,
        "find_groups",
        lambda index, radius: looked.append((index.generation, radius)) or find(index, radius),
    )
    build_index(write_digits(tmp_path / "items", 20), tmp_path / "index")
    client = make_client(served=open_index(tmp_path / "index"))
    for radius in (1, 1, 2, 1):
        client.get(f"/duplicates?radius={radius}")
    delete_items(tmp_path / "index", ["digits/2.png"])
    client.get("/duplicates?radius=1")
    generation = looked[0][0]
    assert looked == [(generation, 1), (generation, 2), (generation + 1, 1)]


def test_what_takes_long_is_asked_for_again(make_client, monkeypatch):
    monkeypatch.setattr(duplicates, "PATIENCE_SECONDS", 0.05)
    looked, find = [], duplicates.find_groups
    monkeypatch.setattr(
        duplicates, "find_groups", lambda index, radius: looked.append(time.sleep(0.4)) or find(index, radius)
    )
    client = make_client()
    answers = []
    while not answers or answers[-1].status_code == 503:
        answers.append(client.get("/duplicates"))
        assert len(answers) < 200
    assert answers[0].status_code == 503
    assert answers[0].headers["retry-after"] == "1"
    assert answers[-1].status_code == 200
    assert len(looked) == 1


def test_after_a_failure_the_next_one_tries_again(make_client, monkeypatch):
    find, failed = duplicates.find_groups, []

    def once(index, radius):
        if not failed:
            failed.append(True)
            raise RuntimeError("out of memory")
        return find(index, radius)

    monkeypatch.setattr(duplicates, "find_groups", once)
    client = make_client(raise_server_exceptions=False)
    assert [client.get("/duplicates").status_code for _ in range(2)] == [500, 200]


def test_an_index_that_is_too_large_is_left_to_the_command_line(make_client):
    answer = make_client(limits=Limits(duplicates_items=100)).get("/duplicates")
    assert answer.status_code == 422
    assert "kdhash dups" in answer.json()["message"]
