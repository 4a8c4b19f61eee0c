"""Pieces side by side: every one done once, in order, and no error lost."""

import threading
import time

import pytest

from cadc_rec.pretrain.kernels import Lanes


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize(("start", "stop"), [(0, 17), (5, 6), (3, 3), (0, 2)])
def test_a_cut_holds_every_number_once_in_order(count, start, stop):
    pieces = Lanes(count).cut(start, stop)
    assert [n for piece in pieces for n in piece] == list(range(start, stop))
    assert all(len(piece) for piece in pieces)
    # Some for each thread, so that a free one can take more than a busy one.
    assert len(pieces) == min(1 if count < 2 else 8 * count, stop - start)


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_the_order_of_the_pieces(count):
    assert Lanes(count).map(lambda n: n * n, range(7)) == [0, 1, 4, 9, 16, 25, 36]


def test_pieces_run_at_the_same_time():
    meeting = threading.Barrier(2)
    Lanes(2).map(lambda _: meeting.wait(timeout=30), range(2))  # alone, one would wait in vain


def test_a_thread_that_is_held_up_keeps_no_other_waiting():
    others_done = threading.Semaphore(0)

    def piece(n):
        if n > 0:
            others_done.release()
            return True
        # Were half of the pieces this thread's, they would stand behind this one for ever.
        return all(others_done.acquire(timeout=30) for _ in range(5))

    assert all(Lanes(2).map(piece, range(6)))


def test_an_error_is_raised_after_every_piece_has_ended():
    ended = []

    def piece(n):
        if n == 0:
            raise KeyError("first")
        time.sleep(0.1)
        ended.append(n)

    with pytest.raises(KeyError, match="first"):
        Lanes(2).map(piece, [0, 1])
    assert ended == [1]
