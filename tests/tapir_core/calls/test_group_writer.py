import threading
from collections.abc import Sequence

import pytest

from tapir_core.calls.store_writer import GroupWriter
from tapir_core.errors import TapirError


def test_every_write_before_the_close_is_committed_and_the_next_is_refused_with_a_reason():
    committed: list[int] = []

    def commit(writes: Sequence[int]) -> list[int]:
        committed.extend(writes)
        return [10 * write for write in writes]

    writer = GroupWriter("test", commit)
    results = [writer.submit(number) for number in range(5)]
    writer.close()
    writer.close()
    assert committed == [0, 1, 2, 3, 4]
    assert [result.result() for result in results] == [0, 10, 20, 30, 40]
    with pytest.raises(TapirError, match="closed"):
        writer.submit(5).result()
    assert committed == [0, 1, 2, 3, 4]


def test_a_commit_takes_no_further_write_once_it_has_enough_rows():
    groups: list[list[int]] = []
    entered, go_on = threading.Event(), threading.Event()

    def commit(writes: Sequence[int]) -> Sequence[int]:
        groups.append(list(writes))
        entered.set()
        go_on.wait(10)
        return writes

    writer = GroupWriter("test", commit)
    writer.submit(1, rows=1)
    assert entered.wait(10)
    for rows in (300, 300, 1, 500, 1, 1):
        writer.submit(rows, rows=rows)
    go_on.set()
    writer.close()
    assert groups == [[1], [300, 300], [1, 500], [1, 1]]


def test_who_gives_up_waiting_takes_no_write_back_and_stops_no_other():
    committed: list[int] = []

    def commit(writes: Sequence[int]) -> Sequence[int]:
        committed.extend(writes)
        return writes

    writer = GroupWriter("test", commit)
    assert not writer.submit(1).cancel()
    assert writer.submit(2).result() == 2
    writer.close()
    assert committed == [1, 2]
