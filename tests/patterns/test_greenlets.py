"""gevent and eventlet: threads become greenlets, before or after anything else has happened."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from patterns_support import SECONDS, chain, numbers, once, run_program

if sys.platform == "win32":
    pytest.skip("signals and fork", allow_module_level=True)

PATCH = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}
MOMENTS = ["before the import", "after the import", "after the set-up", "after the first record"]
QUEUES = ["RecordQueue(1000)", "queue.Queue(1000)", "queue.SimpleQueue()"]
library = pytest.mark.parametrize(
    "library",
    [
        pytest.param(name, marks=pytest.mark.skipif(not importlib.util.find_spec(name), reason=f"no {name}"))
        for name in PATCH
    ],
)


def program(body: str, library: str, moment: str) -> str:
    """*body* with each `# MOMENT` replaced: the library patches at one of them."""
    source = "import warnings\nwarnings.simplefilter('ignore')  # eventlet's, about itself\n"
    for line in textwrap.dedent(body).splitlines():
        indent, _, comment = line.partition("# ")
        source += f"{indent}{PATCH[library]}\n" if comment == moment and not indent.strip() else f"{line}\n"
    return source


BODY = """
    # before the import
    import logging, os, queue, signal, sys, threading, time
    from concurrent_log_handler import ConcurrentRotatingFileHandler
    from concurrent_log_handler.patterns import *
    # after the import
    log = logging.getLogger("app")
    log.setLevel(logging.INFO)
    def write(start, count):
        for number in range(start, start + count):
            log.info("number %d", number)
            time.sleep(0.0005)
    def requests(start):
        greenlets = [threading.Thread(target=write, args=(start + 20 * each, 20)) for each in range(4)]
        for each in greenlets:
            each.start()
        for each in greenlets:
            each.join(20)
            assert not each.is_alive()
"""


@library
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("make", QUEUES)
def test_greenlets_log_whenever_the_library_patches(
    tmp_path: Path, library: str, moment: str, make: str
) -> None:
    """The listener's thread, and what it waits on, are of one kind; after `stop()` each greenlet writes by itself."""
    body = (
        BODY
        + f"""
    records = {make}
    log.addHandler(GracefulQueueHandler(records))
    listener = BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log"))
    listener.start()
    # after the set-up
    log.info("number 0")
    assert listener.flush(20) == 0
    # after the first record
    requests(1)
    assert listener.stop(20) == 0
    requests(81)
    listener.start()
    requests(161)
    """
    )
    run_program(program(body, library, moment), tmp_path)

    assert numbers(chain(tmp_path)) == once(241)


@library
@pytest.mark.parametrize("moment", [*MOMENTS, "after the fork"])
def test_forked_worker_of_a_preloaded_application_logs(tmp_path: Path, library: str, moment: str) -> None:
    """As gunicorn's --preload with a worker class of greenlets, which patches in each worker."""
    body = (
        BODY
        + """
    listener = setup_non_blocking_logging("app.log", 5000, backup_count=99, logger=log)
    # after the set-up
    log.info("number 0")
    # after the first record
    children = []
    for child in range(2):
        pid = os.fork()
        if not pid:
            # after the fork
            requests(1000 * (child + 1))
            sys.exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    requests(1)
    """
    )
    # On Python 3.13, gevent's own hook complains in the child of any thread that was there before the patch.
    quiet = moment != "after the first record"
    run_program(program(body, library, moment), tmp_path, quiet=quiet)

    assert numbers(chain(tmp_path)) == once(81) + once(80, 1000) + once(80, 2000)


@library
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("make", ["RecordQueue(5000)", "queue.Queue(5000)"])
def test_signal_among_greenlets_drains_and_ends_the_process_by_itself(
    tmp_path: Path, library: str, moment: str, make: str
) -> None:
    """It may come inside the hub, where nobody may wait, and while the listener's greenlet writes."""
    body = (
        BODY
        + f"""
    records = {make}
    log.addHandler(GracefulQueueHandler(records))
    listener = BatchingQueueListener(records, ConcurrentRotatingFileHandler("app.log"))
    listener.start()
    GracefulLoggingShutdown(listener, timeout=20)
    # after the set-up
    log.info("number 0")
    assert listener.flush(20) == 0
    # after the first record
    acknowledged = os.open("acknowledged", os.O_WRONLY | os.O_CREAT)
    def busy():
        for number in range(1, 10_000_000):
            log.info("number %d", number)
            os.pwrite(acknowledged, b"%d" % number, 0)
            if number % 7 == 0:
                time.sleep(0.0005)
    threading.Thread(target=busy, daemon=True).start()
    time.sleep(0.1)
    print("ready", flush=True)
    while True:
        time.sleep(60)
    """
    )
    path = tmp_path / "program.py"
    path.write_text(program(body, library, moment), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, path], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate(timeout=SECONDS)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert (process.returncode, err) == (-signal.SIGTERM, "")
    acknowledged = int((tmp_path / "acknowledged").read_text())
    written = numbers(chain(tmp_path))
    assert max(written.values()) == 1
    assert set(range(acknowledged + 1)) <= set(written)


@library
def test_ctrl_c_that_finds_the_listeners_greenlet_reaches_the_main_one(tmp_path: Path, library: str) -> None:
    """Python raises it in whichever greenlet runs; what that one had in hand is written by the next."""
    body = (
        BODY
        + """
    class Pressed(ConcurrentRotatingFileHandler):
        def emit(self, record):
            if pressed and threading.current_thread().name == "log listener":
                pressed.clear()
                signal.raise_signal(signal.SIGINT)
            super().emit(record)
    pressed = []
    records = RecordQueue(100)
    log.addHandler(GracefulQueueHandler(records))
    listener = BatchingQueueListener(records, Pressed("app.log"))
    listener.start()
    write(0, 3)
    assert listener.flush(20) == 0
    pressed.append(1)
    try:
        for number in range(3, 6):
            log.info("number %d", number)
        time.sleep(20)
    except KeyboardInterrupt:
        reached = not pressed
    assert reached
    write(6, 3)
    assert listener.stop(20) == 0
    """
    )
    run_program(program(body, library, "before the import"), tmp_path, quiet=False)  # gevent tells of it

    assert numbers(chain(tmp_path)) == once(9)


@pytest.mark.parametrize("pause", [0.05, 0])
def test_listeners_greenlet_that_is_killed_is_replaced_with_the_next_record(
    tmp_path: Path, pause: float
) -> None:
    """By a test-suite that kills every greenlet it finds: asleep, or while it looks again for what comes next."""
    pytest.importorskip("gevent")
    body = (
        BODY
        + """
    import gc, gevent
    setup_non_blocking_logging("app.log", logger=log)
    write(0, 3)
    time.sleep(PAUSE)
    found = [each for each in gc.get_objects() if isinstance(each, gevent.Greenlet) and not each.dead]
    assert found
    gevent.killall(found, timeout=10)
    assert all(each.dead for each in found)
    write(3, 3)
    until = time.monotonic() + 20
    while sum(1 for line in open("app.log")) < 6:
        assert time.monotonic() < until
        time.sleep(0.01)
    """
    ).replace("PAUSE", str(pause))
    run_program(program(body, "gevent", "before the import"), tmp_path)

    assert numbers(chain(tmp_path)) == once(6)


POOL = {
    "gevent": "import gevent; in_pool = gevent.get_hub().threadpool.apply",
    "eventlet": "from eventlet import tpool; in_pool = tpool.execute",
}


@library
@pytest.mark.parametrize("moment", ["before the import", "after the set-up", "after the fork"])
def test_first_record_in_a_thread_of_the_librarys_pool_keeps_nobody_from_writing(
    tmp_path: Path, library: str, moment: str
) -> None:
    """A greenlet that was started there got its turn no more: what came next was lost, and the end took 30 s."""
    body = (
        BODY
        + f"""
    listener = setup_non_blocking_logging("app.log", logger=log)
    # after the set-up
    pid = os.fork()
    # after the fork
    {POOL[library]}
    start = 0 if pid else 10
    in_pool(lambda: write(start, 3))
    assert listener.flush(5) == 0
    write(start + 3, 3)
    assert listener.flush(5) == 0
    in_pool(lambda: write(start + 6, 4))
    assert listener.stop(5) == 0
    assert not pid or os.waitpid(pid, 0)[1] == 0
    """
    )
    run_program(program(body, library, moment), tmp_path)

    assert numbers(chain(tmp_path)) == once(20)


@library
def test_set_up_imported_in_a_thread_of_the_librarys_pool_keeps_nobody_from_writing(
    tmp_path: Path, library: str
) -> None:
    """It took that thread for the one of the greenlets: all but one record was lost, and the end took 30 s."""
    body = f"""
    # before the import
    import logging
    {POOL[library]}
    log = logging.getLogger("app")
    log.setLevel(logging.INFO)
    def set_up():
        from concurrent_log_handler.patterns import setup_non_blocking_logging
        return setup_non_blocking_logging("app.log", logger=log)
    listener = in_pool(set_up)
    in_pool(lambda: log.info("number 0"))
    log.info("number 1")
    in_pool(lambda: log.info("number 2"))
    assert listener.flush(5) == 0
    """
    run_program(program(body, library, "before the import"), tmp_path)

    assert numbers(chain(tmp_path)) == once(3)
