"""Batches that are made in a thread: the same ones in order, errors where they belong, and no thread that stays."""

import gc
import subprocess
import sys
import threading
import time

import pytest

from torchrec_pss.datasets.read_ahead import ReadAhead


def alive():
    return [t for t in threading.enumerate() if t.name == "read_ahead"]


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_the_same_items_in_order(ahead):
    read = ReadAhead(iter(range(100)), ahead)
    assert list(read) == list(range(100)) and not alive()
    assert list(read) == [] and list(ReadAhead(iter(()), ahead)) == []


def test_no_more_than_said_are_made_ahead():
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    read = ReadAhead(items(), 2)
    for number in range(5):
        assert next(read) == number
        time.sleep(0.05)
        assert len(made) <= number + 1 + 2 + 1  # taken, waiting, in hand
    read.close()
    assert not alive() and len(made) < 10


def test_an_error_comes_where_its_item_would_have():
    def items():
        yield 1
        raise ValueError("line 2")

    read = ReadAhead(items())
    assert next(read) == 1
    with pytest.raises(ValueError, match="line 2"):
        next(read)
    with pytest.raises(StopIteration):
        next(read)
    assert not alive()


def test_what_it_reads_from_is_closed():
    closed = []

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.append(threading.current_thread().name)

    def batches():
        read = ReadAhead(items())
        try:
            yield from read
        finally:
            read.close()

    left = batches()
    assert next(left) == 0
    del left  # nobody takes the rest
    gc.collect()
    assert closed == ["read_ahead"] and not alive()


def test_waiting_is_counted():
    def slow():
        for number in range(3):
            time.sleep(0.05)
            yield number

    read = ReadAhead(slow())
    assert list(read) == [0, 1, 2] and read.waited > 0.1
    quick = ReadAhead(iter(range(3)), 3)
    time.sleep(0.2)
    assert list(quick) == [0, 1, 2] and quick.waited < 0.1


def test_a_program_that_ends_is_not_held_up():
    code = "from torchrec_pss.datasets.read_ahead import ReadAhead; import itertools; r = ReadAhead(itertools.count()); next(r); raise SystemExit(3)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60).returncode == 3
