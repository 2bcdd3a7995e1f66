"""Many threads at once on one handler and on one queue, with forks beside: what a build without the GIL would break."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from process_helpers import check, run_program

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()"),
]


@pytest.mark.parametrize("background", [False, True])
def test_eight_threads_on_one_handler_with_gzip_while_others_fork(tmp_path: Path, background: bool) -> None:
    run_program(
        f"""
        sys.setswitchinterval(1e-5)
        handler = open_log(maxBytes=4000, use_gzip=True, background_gzip={background})
        done = threading.Event()
        def fork_on():
            while not done.is_set():
                run_children(lambda: None)
                time.sleep(0.005)
        forking = threading.Thread(target=fork_on)
        forking.start()
        try:
            run_threads(*(functools.partial(write, handler, str(each), range(400)) for each in range(8)))
        finally:
            done.set()
            forking.join(20)
        assert not forking.is_alive()
        handler.close()
        assert not handler.failures, handler.failures
        """,
        tmp_path,
    )

    check(tmp_path / "logs", {str(each): range(400) for each in range(8)}, max_bytes=4000)


def test_eight_threads_on_one_queue_while_others_fork(tmp_path: Path) -> None:
    run_program(
        """
        from concurrent_log_handler.patterns import BatchingQueueListener, GracefulQueueHandler, RecordQueue
        sys.setswitchinterval(1e-5)
        handler = open_log(maxBytes=4000)
        queue = RecordQueue(100_000)
        listener = BatchingQueueListener(queue, handler)
        listener.start()
        intake = GracefulQueueHandler(queue)
        done = threading.Event()
        def fork_on():
            while not done.is_set():
                run_children(lambda: None)
                time.sleep(0.005)
        forking = threading.Thread(target=fork_on)
        forking.start()
        try:
            run_threads(*(functools.partial(write, intake, str(each), range(400)) for each in range(8)))
        finally:
            done.set()
            forking.join(20)
        listener.stop()
        assert not forking.is_alive()
        assert not handler.failures, handler.failures
        """,
        tmp_path,
    )

    check(tmp_path / "logs", {str(each): range(400) for each in range(8)}, max_bytes=4000)
