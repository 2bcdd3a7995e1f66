"""Fork, spawn, pools and exits, each with real processes: every record is there, once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from patterns_support import chain, numbers, once, run_program

SET_UP = """
import logging, os, queue, sys, threading, time
from concurrent_log_handler import ConcurrentRotatingFileHandler
from concurrent_log_handler.patterns import *
log = logging.getLogger("app")
log.setLevel(logging.INFO)
def write(start, count):
    for number in range(start, start + count):
        log.info("number %d", number)
"""


def program(body: str) -> str:
    return SET_UP + textwrap.dedent(body)


@pytest.mark.parametrize("make", ["RecordQueue(5000)", "queue.Queue(5000)", "queue.SimpleQueue()"])
def test_forked_children_start_empty_and_write_by_themselves(tmp_path: Path, make: str) -> None:
    """The parent's queued records stay the parent's; the child's are written without any call."""
    run_program(
        program(f"""
        records = {make}
        log.addHandler(GracefulQueueHandler(records))
        file = ConcurrentRotatingFileHandler("app.log", maxBytes=20000, backupCount=99)
        listener = BatchingQueueListener(records, file)
        listener.start()
        write(0, 300)
        for child in range(3):
            if os.fork() == 0:
                write(1000 * (child + 1), 500)
                sys.exit(0)
        write(300, 200)
        for _ in range(3):
            assert os.wait()[1] == 0
        """),
        tmp_path,
    )

    expected = once(500) + once(500, 1000) + once(500, 2000) + once(500, 3000)
    assert numbers(chain(tmp_path)) == expected


def test_fork_while_another_thread_holds_the_callers_queue(tmp_path: Path) -> None:
    """`queue.Queue`'s lock is copied as it is, held by a thread that the child does not have."""
    run_program(
        program("""
        records = queue.Queue(5000)
        log.addHandler(GracefulQueueHandler(records))
        listener = BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log"))
        listener.start()
        held, release = threading.Event(), threading.Event()
        def hold():
            with records.mutex:
                held.set()
                release.wait(20)
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(20)
        child = os.fork()
        if child == 0:
            write(0, 100)
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        release.set()
        holder.join(20)
        """),
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == once(100)


def test_forks_at_random_moments_of_a_busy_parent(tmp_path: Path) -> None:
    """Four threads log while the main thread forks."""
    run_program(
        program("""
        listener = setup_non_blocking_logging("app.log", 50_000, backup_count=500, overflow="block")
        threads = [threading.Thread(target=write, args=(10_000 * each, 1500)) for each in range(1, 5)]
        for thread in threads:
            thread.start()
        for child in range(8):
            if os.fork() == 0:
                write(100_000 + 1000 * child, 50)
                sys.exit(0)
        for _ in range(8):
            assert os.wait()[1] == 0
        for thread in threads:
            thread.join(20)
        """),
        tmp_path,
    )

    written = numbers(chain(tmp_path))
    expected = sum((once(1500, 10_000 * each) for each in range(1, 5)), once(0))
    expected += sum((once(50, 100_000 + 1000 * child) for child in range(8)), once(0))
    assert written == expected


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("pool", ["Pool", "ProcessPoolExecutor"])
def test_pools_take_the_set_up_function_as_it_is(tmp_path: Path, method: str, pool: str) -> None:
    """Workers of multiprocessing end without `atexit`: close() and join() still write all."""
    source = program(f"""
    import multiprocessing, concurrent.futures
    def work(task):
        write(task * 100, 100)
    if __name__ == "__main__":
        context = multiprocessing.get_context({method!r})
        if {pool!r} == "Pool":
            pool = context.Pool(3, setup_non_blocking_logging, ("app.log", 90_000))
            pool.map(work, range(20), 1)
            pool.close()
            pool.join()
        else:
            with concurrent.futures.ProcessPoolExecutor(
                3, mp_context=context, initializer=setup_non_blocking_logging, initargs=("app.log", 90_000)
            ) as pool:
                list(pool.map(work, range(20)))
    """)
    run_program(source, tmp_path)

    assert numbers(chain(tmp_path)) == once(2000)


def test_forked_multiprocessing_child_needs_no_set_up_of_its_own(tmp_path: Path) -> None:
    """It ends by `os._exit`; what it has queued is written before."""
    run_program(
        program("""
        import multiprocessing
        setup_non_blocking_logging("app.log")
        write(0, 10)
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=write, args=(1000 * each, 400)) for each in range(1, 5)]
        for child in children: child.start()
        for child in children:
            child.join(200)
            assert child.exitcode == 0
        """),
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == once(10) + sum(
        (once(400, 1000 * each) for each in range(1, 5)), once(0)
    )


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_queue_with_one_listener_in_the_parent(tmp_path: Path, method: str) -> None:
    """The classic shape: children put in, the parent writes."""
    run_program(
        program(f"""
        import multiprocessing
        def work(records, start):
            log.addHandler(FastQueueHandler(records))
            write(start, 200)
        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            records = context.Queue(5000)
            with managed_listener(records, ConcurrentRotatingFileHandler("app.log")):
                children = [context.Process(target=work, args=(records, 1000 * each)) for each in range(3)]
                for child in children: child.start()
                for child in children:
                    child.join(200)
                    assert child.exitcode == 0
        """),
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == sum((once(200, 1000 * each) for each in range(3)), once(0))


def test_killed_child_does_not_hang_the_stop_of_the_parents_listener(tmp_path: Path) -> None:
    """It had counted records in the shared queue that it never sent."""
    run_program(
        program("""
        import multiprocessing, signal
        context = multiprocessing.get_context("fork")
        records = context.Queue(5000)
        def work():
            log.addHandler(FastQueueHandler(records))
            write(0, 10)
            records._sem.acquire()  # as `put` does, before the sending thread is killed
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        listener = BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log"))
        listener.start()
        child = context.Process(target=work)
        child.start()
        child.join(200)
        begun = time.monotonic()
        assert listener.stop(timeout=20) == 0
        assert time.monotonic() - begun < 10
        """),
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == once(10)


def test_plain_fork_puts_into_the_parents_multiprocessing_queue(tmp_path: Path) -> None:
    """multiprocessing does not hear of an `os.fork()`, and its sending thread is not copied."""
    run_program(
        program("""
        import multiprocessing
        records = multiprocessing.get_context("fork").Queue(5000)
        log.addHandler(GracefulQueueHandler(records))
        with managed_listener(records, ConcurrentRotatingFileHandler("app.log")) as listener:
            write(0, 50)
            child = os.fork()
            if child == 0:
                write(50, 50)
                assert listener.stop() == 0
                write(100, 50)
                sys.exit(0)
            assert os.waitpid(child, 0)[1] == 0
        """),
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == once(150)


def test_exit_writes_everything_also_what_is_logged_at_exit(tmp_path: Path) -> None:
    """atexit callbacks, daemon threads and a main thread that ends with an exception."""
    run_program(
        program("""
        import atexit
        atexit.register(write, 5000, 5)
        setup_non_blocking_logging("app.log")
        atexit.register(write, 6000, 5)
        def forever():
            number = 10_000
            while True:
                log.info("daemon %d", number)
                time.sleep(0.001)
        threading.Thread(target=forever, daemon=True).start()
        late = threading.Thread(target=lambda: (time.sleep(0.05), write(7000, 5)))
        late.start()
        write(0, 2000)
        sys.exit(3)
        """),
        tmp_path,
        status=3,
    )

    assert numbers(chain(tmp_path)) == once(2000) + once(5, 5000) + once(5, 6000) + once(5, 7000)


def test_exit_writes_what_is_on_its_way_in_a_queue_between_processes(tmp_path: Path) -> None:
    """multiprocessing closes its queues at the exit, with all that nobody has read by then."""
    run_program(
        """
        import logging
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        from concurrent_log_handler.patterns import *
        import multiprocessing
        records = multiprocessing.Queue(100)
        logging.getLogger().addHandler(FastQueueHandler(records))
        BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log")).start()
        for number in range(90):
            logging.error("number %d", number)
        """,
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == once(90)


def test_first_record_ever_at_exit(tmp_path: Path) -> None:
    """No thread can be started any more from Python 3.12 on."""
    run_program(
        program("""
        import atexit
        setup_non_blocking_logging("app.log")
        class Last:
            def __del__(self):
                write(1, 1)
        last = Last()
        atexit.register(write, 0, 1)
        """),
        tmp_path,
        quiet=os.name != "nt",  # portalocker cannot lock that late there
    )

    assert numbers(chain(tmp_path)) == once(2)


def test_listener_that_was_never_started_is_emptied_at_exit(tmp_path: Path) -> None:
    """Forgetting `start()` should not cost the records."""
    run_program(
        program("""
        records = queue.Queue(100)
        log.addHandler(GracefulQueueHandler(records))
        listener = BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log"))
        write(0, 50)
        """),
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == once(50)


def test_exit_is_bounded_when_the_disk_hangs(tmp_path: Path) -> None:
    """The process ends, and says how many records it could not write."""
    done = run_program(
        program("""
        from concurrent_log_handler.patterns import _exit
        _exit.finish_all.__defaults__ = (0.3,)
        import multiprocessing.util  # whose own end comes before atexit's: nothing is waited for twice
        class Hanging(logging.Handler):
            def emit(self, record):  # with its lock held, which logging.shutdown() waits for
                threading.Event().wait(60)
        for _ in range(3):
            records = RecordQueue(100)
            log.addHandler(FastQueueHandler(records))
            BatchingQueueListener(records, Hanging()).start()
        records = RecordQueue(100)
        log.addHandler(FastQueueHandler(records))
        BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log")).start()
        write(0, 5)
        """),
        tmp_path,
        quiet=False,
    )

    assert done.stderr == "concurrent_log_handler: 15 log records were not written within 0.3 s\n"
    assert numbers(chain(tmp_path)) == once(5)


def test_spawned_child_sets_up_with_one_call(tmp_path: Path) -> None:
    """It inherits nothing; the same call as in the parent is all it needs."""
    run_program(
        program("""
        import multiprocessing
        def work(start):
            setup_non_blocking_logging("app.log")
            write(start, 100)
        if __name__ == "__main__":
            setup_non_blocking_logging("app.log")
            write(0, 100)
            child = multiprocessing.get_context("spawn").Process(target=work, args=(100,))
            child.start()
            child.join(200)
            assert child.exitcode == 0
        """),
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == once(200)


def test_fork_while_another_thread_starts_the_listener(tmp_path: Path) -> None:
    """The child inherits that somebody is at it, and nobody is."""
    run_program(
        program("""
        from concurrent_log_handler.patterns import _exit
        half_way, go_on = threading.Event(), threading.Event()
        class Slow(threading.Thread):
            def start(self):
                half_way.set()
                go_on.wait(20)
                super().start()
        class Noting(ConcurrentRotatingFileHandler):
            def emit_batch(self, records):
                assert threading.current_thread().name == "log listener", threading.current_thread()
                super().emit_batch(records)
        records = RecordQueue(1000)
        listener = BatchingQueueListener(records, Noting("app.log"))
        listener.start()
        log.addHandler(FastQueueHandler(records))
        first = threading.Thread(target=write, args=(0, 1))
        threading.Thread, original = Slow, threading.Thread
        first.start()
        assert half_way.wait(20)
        threading.Thread = original
        if os.fork() == 0:
            write(1, 50)
            sys.exit(0)
        go_on.set()
        first.join()
        assert os.wait()[1] == 0
        """),
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == once(51)


def test_child_whose_fork_hook_logs_writes_everything(tmp_path: Path) -> None:
    """multiprocessing forgets all finalizers of a child just after that."""
    run_program(
        program("""
        import multiprocessing
        setup_non_blocking_logging("app.log")
        os.register_at_fork(after_in_child=lambda: log.info("forked"))
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=write, args=(1000 * number, 1000)) for number in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
        """),
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == once(3000)


def test_standard_queue_handler_in_a_forked_child(tmp_path: Path) -> None:
    """It tells nobody of its records, so the thread must be there before them."""
    run_program(
        program("""
        import logging.handlers, multiprocessing
        records = queue.Queue(1000)
        log.addHandler(logging.handlers.QueueHandler(records))
        with managed_listener(records, ConcurrentRotatingFileHandler("app.log")):
            write(0, 10)
            child = multiprocessing.get_context("fork").Process(target=write, args=(10, 10))
            child.start()
            child.join()
        """),
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == once(20)


# CPython itself, untold of the fork, does not survive one while another thread waits for its lock; and at
# its end a child waits for the lock of any thread but a daemon that was there, such as one that compresses.
# From 3.13 on, threads that wait for a lock stand in a table, with entries on their stacks, which a child's threads
# then use: no thread may be there.
FORK_IN_C = """
        import ctypes
        from concurrent_log_handler.patterns._common import WakeableThread
        def asleep():
            others = [frame for thread, frame in sys._current_frames().items() if thread != threading.get_ident()]
            return all(frame.f_code is WakeableThread.wait.__code__ for frame in others)
        def fork_in_c():
            if sys.version_info >= (3, 13):
                assert listener.stop() == 0
            until = time.monotonic() + 20
            seen = 0
            while seen < 3 and time.monotonic() < until:
                seen = seen + 1 if asleep() else 0
                time.sleep(0.02)
            child = ctypes.PyDLL(None).fork()
            if sys.version_info >= (3, 13):
                listener.start()
            return child
"""
in_c = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="needs a call that keeps CPython's lock"
)


@pytest.mark.slow
@in_c
@pytest.mark.parametrize(
    "end", ["sys.exit(0)", "listener.stop(); os._exit(0)", "listener.flush(); os._exit(0)"]
)
def test_child_forked_in_c_writes_everything(tmp_path: Path, end: str) -> None:
    """uWSGI tells Python nothing of its forks; the listener's thread, and what is queued, are the parent's."""
    run_program(
        program(f"""
        {FORK_IN_C}
        listener = setup_non_blocking_logging("app.log", 50_000, backup_count=500)
        for child in range(10):
            write(1000 * child, 100)
            if fork_in_c() == 0:
                sys.setswitchinterval(1e-6)
                barrier = threading.Barrier(3)
                def together(start):
                    barrier.wait(20)
                    write(start, 100)
                threads = [
                    threading.Thread(target=together, args=(100_000 + 1000 * child + 100 * each,))
                    for each in range(3)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(20)
                {end}
            assert os.wait()[1] == 0
        """),
        tmp_path,
    )

    expected = Counter(1000 * child + number for child in range(10) for number in range(100))
    expected += Counter(100_000 + 1000 * child + number for child in range(10) for number in range(300))
    assert numbers(chain(tmp_path)) == expected


@pytest.mark.slow
@in_c
def test_child_forked_in_c_that_logs_nothing_ends(tmp_path: Path) -> None:
    """Its copy of the parent's thread is dead, and the parent writes what was queued."""
    run_program(
        program(f"""
        {FORK_IN_C}
        listener = setup_non_blocking_logging("app.log")
        for child in range(10):
            write(100 * child, 100)
            if fork_in_c() == 0:
                sys.exit(0)
            assert os.wait()[1] == 0
        """),
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == once(1000)


@in_c
@pytest.mark.parametrize("warm", [False, True])
def test_standard_queue_handler_in_a_child_forked_in_c(tmp_path: Path, warm: bool) -> None:
    """It knows nothing of forks, but the queue does."""
    run_program(
        program(f"""
        import logging.handlers
        {FORK_IN_C}
        records = RecordQueue(5000)
        listener = BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log"))
        listener.start()
        log.addHandler(logging.handlers.QueueHandler(records))
        if {warm}:
            write(0, 10)
        fork = fork_in_c if {warm} else ctypes.PyDLL(None).fork
        if fork() == 0:
            write(10, 2000)
            assert listener.stop() == 0
            os._exit(0)
        assert os.wait()[1] == 0
        """),
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == once(2010 if warm else 2000, 0 if warm else 10)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a PID namespace of its own")
def test_child_with_the_same_pid(tmp_path: Path) -> None:
    """Process 1 of a container that puts its children into PID namespaces of their own."""
    source = program("""
        import ctypes
        from concurrent_log_handler._locks import _platform as _flock
        listener = setup_non_blocking_logging("app.log")
        handler = listener.handlers[0]
        write(0, 10)
        listener.flush()
        held = handler._lock.fd
        ctypes.CDLL(None).unshare(0x20000000)  # CLONE_NEWPID
        if os.fork() == 0:
            assert os.getpid() == 1
            assert handler._lock.fd == -1
            write(10, 100)
            assert listener.stop() == 0
            os._exit(0)
        assert os.wait()[1] == 0
        assert handler._lock.fd == held
    """)
    (tmp_path / "program.py").write_text(source)
    command = ["unshare", "--pid", "--fork", sys.executable, "-W", "ignore", "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    if "Operation not permitted" in done.stderr:
        pytest.skip("namespaces are not allowed here")
    assert done.returncode == 0, done.stderr

    (tmp_path / "program.py").unlink()
    assert numbers(chain(tmp_path)) == once(110)


def test_last_record_of_a_worker_whose_signal_handler_logs_and_exits_is_written(tmp_path: Path) -> None:
    """The signal comes while a record is put into the queue between processes: the handler's stayed beside it."""
    run_program(
        """
        import collections, logging, multiprocessing, os, signal, sys, time
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        from concurrent_log_handler.patterns import BatchingQueueListener, FastQueueHandler

        class Interrupting(collections.deque):
            def append(self, item):
                if armed:
                    armed.clear()
                    os.kill(os.getpid(), signal.SIGTERM)
                    time.sleep(0)
                super().append(item)

        def end(*_):
            logging.error("number 2")
            sys.exit(3)

        def work(records):
            signal.signal(signal.SIGTERM, end)
            records._buffer = Interrupting()
            logging.error("number 1")
            armed.append(1)
            logging.error("cut")
            raise AssertionError("no signal came")

        armed = []
        context = multiprocessing.get_context("fork")
        records = context.Queue(3)
        logging.getLogger().addHandler(FastQueueHandler(records))
        worker = context.Process(target=work, args=(records,))
        worker.start()
        worker.join(20)
        assert worker.exitcode == 3, worker.exitcode
        with BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log")):
            pass
        logging.getLogger().handlers.clear()
        """,
        tmp_path,
    )
    assert numbers(chain(tmp_path)) == once(2, 1)


@pytest.mark.parametrize("first", ["multiprocessing.util", "concurrent_log_handler.patterns"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_parent_that_ends_without_a_join_reads_what_its_children_log_until_they_end(
    tmp_path: Path, method: str, first: str
) -> None:
    """Python waits for them at its end, and each of them until its records are read: parent and children hung."""
    run_program(
        f"""
        import {first}
        import logging, multiprocessing.util
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        from concurrent_log_handler.patterns import BatchingQueueListener, FastQueueHandler

        def work(records, start, ready, parent_ends):
            handler = FastQueueHandler(records)
            ready.release()
            assert parent_ends.acquire(timeout=20)
            for number in range(start, start + 500):
                handler.handle(logging.makeLogRecord({{"msg": f"number {{number}}", "filler": "x" * 1000}}))

        if __name__ == "__main__":
            context = multiprocessing.get_context("{method}")
            records, ready, parent_ends = context.Queue(), context.Semaphore(0), context.Semaphore(0)
            listener = BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log"))
            listener.start()
            for start in (1, 501):
                context.Process(target=work, args=(records, start, ready, parent_ends)).start()
                assert ready.acquire(timeout=20)
                # One of the last calls before multiprocessing waits for its children.
                multiprocessing.util.Finalize(None, parent_ends.release, exitpriority=1)
        """,
        tmp_path,
    )
    assert numbers(chain(tmp_path)) == once(1000, 1)


def test_parent_that_logs_and_ends_while_a_child_is_there_writes_its_last_records(tmp_path: Path) -> None:
    """At its end multiprocessing closes the queue of who has put in, a Manager alive or not: nobody read the rest."""
    run_program(
        """
        import logging, multiprocessing
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        from concurrent_log_handler.patterns import BatchingQueueListener, FastQueueHandler

        context = multiprocessing.get_context("fork")
        manager, records = context.Manager(), context.Queue()
        BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log")).start()
        handler = FastQueueHandler(records)
        for number in range(500):
            handler.handle(logging.makeLogRecord({"msg": f"number {number}", "filler": "x" * 1000}))
        """,
        tmp_path,
    )
    assert numbers(chain(tmp_path)) == once(500)


# A worker that was forked by os.fork(): multiprocessing's children, and finalizers, of its parent are not its own.
FORKED_WORKER = """
        import logging, multiprocessing.util, os, sys, time
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        from concurrent_log_handler.patterns import BatchingQueueListener, FastQueueHandler

        class Slow(ConcurrentRotatingFileHandler):
            def emit_batch(self, records):
                time.sleep(0.2)
                super().emit_batch(records)

        def feed(records):
            handler = FastQueueHandler(records)
            for number in range(500):
                handler.handle(logging.makeLogRecord({"msg": f"number {number}", "filler": "x" * 1000}))

        def listen():
            records = context.Queue()
            BatchingQueueListener(records, Slow("app.log")).start()
            child = context.Process(target=feed, args=(records,))
            child.start()
            return child

        context = multiprocessing.get_context("fork")
"""


def test_forked_worker_reads_what_its_children_log_though_its_parent_logs_by_such_a_queue(
    tmp_path: Path,
) -> None:
    """Nobody read any more once they had ended."""
    run_program(
        FORKED_WORKER
        + """
        handler = FastQueueHandler(context.Queue())
        worker = os.fork()
        if worker:
            assert os.waitpid(worker, 0)[1] == 0
        else:
            listen()
        """,
        tmp_path,
    )
    assert numbers(chain(tmp_path)) == once(500)


def test_forked_worker_writes_everything_though_its_parent_has_children(tmp_path: Path) -> None:
    """It waited for them, in vain: multiprocessing's own exit breaks off there, and the rest was lost."""
    run_program(
        FORKED_WORKER
        + """
        over = context.Event()
        sibling = context.Process(target=over.wait, args=(20,))
        sibling.start()
        worker = os.fork()
        if worker:
            os.waitpid(worker, 0)
            over.set()
        else:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # its traceback
            listen().join(20)
        """,
        tmp_path,
    )
    assert numbers(chain(tmp_path)) == once(500)


def test_parent_whose_signal_handler_exits_reads_what_its_children_log_until_they_end(tmp_path: Path) -> None:
    """It stopped reading at the signal: the children waited for it at their end, and it for them."""
    run_program(
        """
        import logging, multiprocessing, os, signal, sys, time
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        from concurrent_log_handler.patterns import BatchingQueueListener, FastQueueHandler, GracefulLoggingShutdown

        def work(records, ready, parent_ends):
            handler = FastQueueHandler(records)
            ready.set()
            assert parent_ends.wait(20)
            for number in range(500):
                handler.handle(logging.makeLogRecord({"msg": f"number {number}", "filler": "x" * 1000}))

        def end(*_):
            parent_ends.set()
            sys.exit(0)

        context = multiprocessing.get_context("fork")
        records, ready, parent_ends = context.Queue(), context.Event(), context.Event()
        listener = BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log"))
        listener.start()
        context.Process(target=work, args=(records, ready, parent_ends)).start()
        assert ready.wait(20)
        signal.signal(signal.SIGTERM, end)
        GracefulLoggingShutdown(listener)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)
        raise AssertionError("no signal came")
        """,
        tmp_path,
    )
    assert numbers(chain(tmp_path)) == once(500)
