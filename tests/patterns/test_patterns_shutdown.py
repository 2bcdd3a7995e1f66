"""Signals: everything queued is written, and the process ends the way the signal would have ended it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from concurrent_log_handler.patterns import BatchingQueueListener, GracefulLoggingShutdown, RecordQueue
from patterns_support import SECONDS, Keep, chain, numbers, once, run_program

SET_UP = """
import logging, os, queue, signal, sys, threading, time
from concurrent_log_handler import ConcurrentRotatingFileHandler
from concurrent_log_handler.patterns import *
log = logging.getLogger("app")
log.setLevel(logging.INFO)
def write(start, count):
    for number in range(start, start + count):
        log.info("number %d", number)
def ready():
    print("ready", flush=True)
"""


class Slow:
    """Shared text: a handler that takes its time, so that a queue is there to be drained."""

    TEXT = """
class Slow(ConcurrentRotatingFileHandler):
    def emit(self, record):
        time.sleep(0.002)
        super().emit(record)
"""


def start(body: str, directory: Path) -> subprocess.Popen[str]:
    """A program of its own that has said it is ready for signals."""
    if os.name == "nt":
        pytest.skip("nobody can send another process a signal there")
    path = directory / "program.py"
    path.write_text(SET_UP + Slow.TEXT + textwrap.dedent(body), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", path],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    if said != "ready\n":
        pytest.fail(f"{said}{process.communicate(timeout=SECONDS)}")
    return process


def end(process: subprocess.Popen[str], status: int, quiet: bool = True) -> tuple[str, str]:
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == status, f"exit {process.returncode}\n{out}\n{err}"
    assert not quiet or not err, err
    return out, err


QUEUED = """
records = RecordQueue(5000)
log.addHandler(GracefulQueueHandler(records))
listener = BatchingQueueListener(records, Slow("app.log"))
listener.start()
shutdown = GracefulLoggingShutdown(listener)
write(0, 300)
"""
# Short sleeps: Python sleeps on if a signal comes between its last look and the system call.
SLEEP = """
ready()
while True:
    time.sleep(0.05)
"""


def test_default_disposition_drains_then_dies_by_the_signal(tmp_path: Path) -> None:
    """The parent sees SIGTERM, as without us; every record is there."""
    process = start(QUEUED + SLEEP, tmp_path)

    process.send_signal(signal.SIGTERM)

    end(process, -signal.SIGTERM)
    assert numbers(chain(tmp_path)) == once(300)


def test_previous_python_handler_is_called_and_the_application_ends_itself(tmp_path: Path) -> None:
    """As uvicorn does; what is logged until then, and after, is written."""
    process = start(
        """
stopping = False
def on_term(signum, frame):
    global stopping
    stopping = True
signal.signal(signal.SIGTERM, on_term)
"""
        + QUEUED
        + """
ready()
number = 300
while not stopping:
    log.info("number %d", number)
    number += 1
    time.sleep(0.005)
write(number, 50)
print(number + 50)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(20)
""",
        tmp_path,
    )

    process.send_signal(signal.SIGTERM)

    out, _ = end(process, -signal.SIGTERM)
    assert numbers(chain(tmp_path)) == once(int(out))


def test_keyboard_interrupt_still_unwinds_the_application(tmp_path: Path) -> None:
    """SIGINT has a Python handler by default."""
    process = start(
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # not so in the background of a shell
        + QUEUED
        + """
try:
    ready()
    while True:
        time.sleep(0.05)
except KeyboardInterrupt:
    write(300, 10)
    sys.exit(7)
""",
        tmp_path,
    )

    process.send_signal(signal.SIGINT)

    end(process, 7)
    assert numbers(chain(tmp_path)) == once(310)


def test_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """nohup and the like have their reasons."""
    process = start(
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        + QUEUED
        + "os.kill(os.getpid(), signal.SIGINT)\nready()\n",
        tmp_path,
    )

    end(process, 0)
    assert numbers(chain(tmp_path)) == once(300)


def test_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """Who presses Ctrl-C twice means it."""
    process = start(
        """
class Hanging(logging.Handler):
    def handle(self, record):
        time.sleep(60)
records = RecordQueue(100)
log.addHandler(GracefulQueueHandler(records))
listener = BatchingQueueListener(records, Hanging())
listener.start()
class Said(GracefulLoggingShutdown):
    def signal_handler(self, signum, frame):
        os.write(1, b"draining\\n")
        super().signal_handler(signum, frame)
shutdown = Said(listener, timeout=60)
write(0, 3)
"""
        + SLEEP,
        tmp_path,
    )

    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "draining\n"
    while process.poll() is None:  # the disposition changes a moment after the word
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    end(process, -signal.SIGTERM)


def test_timeout_bounds_the_drain_and_says_what_is_left(tmp_path: Path) -> None:
    """One second asked, one second taken."""
    process = start(
        """
class Crawling(logging.Handler):
    def handle(self, record):
        time.sleep(0.1)
records = RecordQueue(5000)
log.addHandler(GracefulQueueHandler(records))
listener = BatchingQueueListener(records, Crawling())
listener.start()
shutdown = GracefulLoggingShutdown(listener, timeout=0.5)
write(0, 300)
"""
        + SLEEP,
        tmp_path,
    )

    process.send_signal(signal.SIGTERM)

    _, err = end(process, -signal.SIGTERM, quiet=False)
    assert re.fullmatch(r"log queue not written within 0\.5 s: 29\d records are left\n", err)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(6))
@pytest.mark.parametrize("make", ["RecordQueue(50000)", "queue.Queue(50000)"])
def test_signal_at_any_moment_of_a_busy_main_thread(tmp_path: Path, moment: int, make: str) -> None:
    """Inside the queue, its lock or the file: no deadlock, and nothing acknowledged is lost."""
    process = start(
        f"""
records = {make}
file = ConcurrentRotatingFileHandler("app.log", maxBytes=200_000, backupCount=999)
log.addHandler(GracefulQueueHandler(records, file))
listener = BatchingQueueListener(records, file)
listener.start()
direct = logging.getLogger("direct")
direct.setLevel(logging.INFO)
direct.addHandler(file)
shutdown = GracefulLoggingShutdown(listener, timeout=20)
ready()
acknowledged = os.open("acknowledged", os.O_WRONLY | os.O_CREAT)
for number in range(10_000_000):
    (direct if number % 3 == 0 else log).info("number %d", number)
    os.pwrite(acknowledged, b"%d" % number, 0)
""",
        tmp_path,
    )

    threading.Event().wait(0.05 + 0.013 * moment)
    process.send_signal(signal.SIGTERM)

    end(process, -signal.SIGTERM)
    acknowledged = int((tmp_path / "acknowledged").read_text() or -1)
    written = numbers(chain(tmp_path))
    assert max(written.values(), default=1) == 1
    assert set(range(acknowledged + 1)) <= set(written)


@pytest.mark.slow
def test_forked_child_drains_its_own_queue_and_dies_by_the_signal(tmp_path: Path) -> None:
    """The handler is inherited; the listener's thread is not."""
    process = start(
        QUEUED
        + """
listener.flush()
child = os.fork()
if child == 0:
    write(300, 200)
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(9)
begun = time.monotonic()
_, status = os.waitpid(child, 0)
assert os.WTERMSIG(status) == signal.SIGTERM, status
assert time.monotonic() - begun < 10
ready()
""",
        tmp_path,
    )

    end(process, 0)
    assert numbers(chain(tmp_path)) == once(500)


def test_a_standard_listener_can_be_shut_down_too(tmp_path: Path) -> None:
    """Any object with a queue and a `stop()`."""
    process = start(
        """
import logging.handlers
records = queue.Queue(5000)
log.addHandler(logging.handlers.QueueHandler(records))
listener = logging.handlers.QueueListener(records, Slow("app.log"))
listener.start()
shutdown = GracefulLoggingShutdown(listener)
write(0, 100)
"""
        + SLEEP,
        tmp_path,
    )

    process.send_signal(signal.SIGTERM)

    end(process, -signal.SIGTERM)
    assert numbers(chain(tmp_path)) == once(100)


def test_two_shutdowns_drain_both_listeners(tmp_path: Path) -> None:
    """The second one calls the first as its previous handler."""
    process = start(
        """
for name in ("one", "two"):
    records = RecordQueue(5000)
    log.addHandler(GracefulQueueHandler(records))
    listener = BatchingQueueListener(records, Slow(name + ".log"))
    listener.start()
    GracefulLoggingShutdown(listener)
write(0, 100)
"""
        + SLEEP,
        tmp_path,
    )

    process.send_signal(signal.SIGTERM)

    end(process, -signal.SIGTERM)
    assert numbers(chain(tmp_path, "one.log")) == numbers(chain(tmp_path, "two.log")) == once(100)


def test_outside_the_main_thread_nothing_is_installed() -> None:
    """A factory that a server calls in a worker thread must not crash."""
    made = []
    listener = BatchingQueueListener(RecordQueue(1), Keep())
    thread = threading.Thread(target=lambda: made.append(GracefulLoggingShutdown(listener)))
    thread.start()
    thread.join(SECONDS)

    assert not made[0].installed
    made[0].setup_signal_handlers()  # here, in the main thread, it can
    assert made[0].installed
    made[0].restore()


def test_restore_gives_the_signals_back() -> None:
    """Also if it is called twice; a handler that came later stays."""
    before = signal.getsignal(signal.SIGTERM)
    shutdown = GracefulLoggingShutdown(
        BatchingQueueListener(RecordQueue(1), Keep()), signals=[signal.SIGTERM]
    )
    assert signal.getsignal(signal.SIGTERM) == shutdown.signal_handler

    shutdown.restore()
    shutdown.restore()

    assert signal.getsignal(signal.SIGTERM) == before
    shutdown.setup_signal_handlers()

    def later(*_) -> None: ...

    signal.signal(signal.SIGTERM, later)
    shutdown.restore()
    assert signal.getsignal(signal.SIGTERM) is later
    signal.signal(signal.SIGTERM, before)
    assert os.getpid()


@pytest.mark.parametrize("make", ["queue.Queue(50000)", "queue.SimpleQueue()"])
def test_signal_inside_the_callers_queue_lets_it_go_on(tmp_path: Path, make: str) -> None:
    """The listener needs the lock that the interrupted call has: the call ends, then all is written."""
    process = start(
        f"""
records = {make}
handler = GracefulQueueHandler(records)
log.addHandler(handler)
listener = BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log"))
listener.start()
shutdown = GracefulLoggingShutdown(listener, timeout=20)
inner = handler._queue._put
def put(record):
    inner(record)
    if record.getMessage() == "number 99":
        ready()
        begun = time.monotonic()
        while time.monotonic() - begun < 0.3:  # with the queue's lock
            time.sleep(0.01)
handler._queue._put = put
write(0, 100)
while True:
    time.sleep(0.05)
""",
        tmp_path,
    )

    process.send_signal(signal.SIGTERM)

    end(process, -signal.SIGTERM)
    assert numbers(chain(tmp_path)) == once(100)


@pytest.mark.skipif(sys.platform != "linux", reason="process namespaces are Linux's")
def test_first_process_of_a_container_ends_too(tmp_path: Path) -> None:
    """The kernel lets no default disposition end it, not even its own signal."""
    unshare = ["unshare", "--pid", "--fork"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("a process namespace needs rights that are missing here")
    path = tmp_path / "program.py"
    path.write_text(
        SET_UP + Slow.TEXT + textwrap.dedent(QUEUED) + "os.kill(1, signal.SIGTERM)\ntime.sleep(60)"
    )
    done = subprocess.run([*unshare, sys.executable, path], cwd=tmp_path, timeout=SECONDS, check=False)

    assert done.returncode == 128 + signal.SIGTERM
    assert numbers(chain(tmp_path)) == once(300)


def test_full_queue_of_a_standard_listener_is_written(tmp_path: Path) -> None:
    """Its `stop()` needs room in the queue for an end mark; the guide's own pairing."""
    process = start(
        """
import logging.handlers
records = queue.Queue(200)
listener = logging.handlers.QueueListener(records, Slow("app.log"))
listener.start()
handler = GracefulQueueHandler(records, overflow="block")
log.addHandler(handler)
GracefulLoggingShutdown(listener, timeout=20)
write(0, 250)
"""
        + SLEEP,
        tmp_path,
    )

    process.send_signal(signal.SIGTERM)

    end(process, -signal.SIGTERM)
    assert numbers(chain(tmp_path)) == once(250)


def test_stop_in_a_signal_handler_inside_a_multiprocessing_queue_does_not_deadlock(tmp_path: Path) -> None:
    process = start(
        """
import collections, multiprocessing
records = multiprocessing.Queue(100)
log.addHandler(FastQueueHandler(records))
listener = BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log"))
listener.start()
armed = []
class Interrupting(collections.deque):
    def append(self, item):
        if armed:
            armed.clear()
            os.kill(os.getpid(), signal.SIGALRM)
            time.sleep(0)
        super().append(item)
records._buffer = Interrupting()  # before its own thread has been given the other one
write(0, 1)
listener.flush()
signal.signal(signal.SIGALRM, lambda *_: listener.stop(1))
armed.append(1)
write(1, 1)
assert not armed
ready()
""",
        tmp_path,
    )

    end(process, 0)
    assert numbers(chain(tmp_path)) == once(2)


def test_close_does_not_wait_again_for_a_listener_that_the_exit_has_given_up(tmp_path: Path) -> None:
    """`logging.shutdown()` closes the handler after the listener has had its time, and each would get as much again."""
    run_program(
        """
        import logging, os, time
        from concurrent_log_handler.patterns import NonBlockingFileHandler
        from concurrent_log_handler.patterns._exit import finish_all
        class Hangs(logging.Handler):
            def emit(self, record):
                time.sleep(1000)
        handler = NonBlockingFileHandler(handler=Hangs())
        handler.handle(logging.makeLogRecord({"msg": "text"}))
        finish_all(0.2)
        started = time.monotonic()
        handler.close()
        assert time.monotonic() - started < 20
        os._exit(0)
        """,
        tmp_path,
        quiet=False,
    )
