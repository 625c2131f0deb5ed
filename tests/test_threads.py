import threading

import pytest
import torch

from foveate._threads import parallel_map


@pytest.fixture
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_two_threads")
class TestParallelMap:
    def test_keeps_the_order_and_uses_two_threads(self):
        both = threading.Barrier(2, timeout=20)  # passes only if two jobs are under way at once

        def job(item):
            both.wait()
            return item * item, threading.get_ident()

        results = parallel_map(job, range(4))
        assert [square for square, _ in results] == [0, 1, 4, 9]
        assert len({thread for _, thread in results}) == 2

    def test_one_thread_is_a_plain_loop(self):
        torch.set_num_threads(1)
        assert set(parallel_map(lambda _: threading.get_ident(), range(4))) == {threading.get_ident()}

    def test_an_error_is_raised(self):
        with pytest.raises(ZeroDivisionError):
            parallel_map(lambda item: 1 / item, [1, 0, 2])

    def test_no_thread_is_left(self):
        before = threading.active_count()
        parallel_map(abs, range(5))
        assert threading.active_count() == before
