"""uWSGI: it forks its workers in C, and without `py-call-osafterfork` no hook of Python's hears of it.

The master loads the application, which logs and rotates there, so that the workers inherit a
handler that has been used, with its lock and its open file.  Threads that it starts there would leave
the workers without the interpreter's lock.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_servers import REQUESTS, load, wait_for

from patterns_support import SECONDS, chain, numbers, once, service
from process_helpers import wait_until

UWSGI = shutil.which("uwsgi", path=str(Path(sys.executable).parent))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(UWSGI is None, reason="pyuwsgi is not installed in this environment"),
]
LOADED = 300
WORKERS = 4

HANDLER = """
from concurrent_log_handler import ConcurrentRotatingFileHandler

handler = ConcurrentRotatingFileHandler("app.log", maxBytes=4000, backupCount=999, use_gzip=True, {options})
logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(process)d %(message)s")
"""

PATTERNS = """
from concurrent_log_handler.patterns import setup_non_blocking_logging

setup_non_blocking_logging("app.log", 4000, backup_count=999)
"""

APP = f"""
for number in range({LOADED}):
    logging.info("master %d", number)

def app(environ, start_response):
    if environ["PATH_INFO"] == "/up":
        meet()
    else:
        for half in (1, 2):
            logging.info("half%d %s %s", half, environ["PATH_INFO"].strip("/"), "x" * 60)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]

def meet():
    pathlib.Path("up.%d" % os.getpid()).touch()
    until = time.monotonic() + {SECONDS}
    while len(list(pathlib.Path().glob("up.*"))) < {WORKERS} and time.monotonic() < until:
        time.sleep(0.005)
"""

LAZY = "--lazy-apps"
THREADS = ("--enable-threads", "--threads", "3")


@pytest.mark.parametrize(
    ("logging_", "flags"),
    [
        (HANDLER.format(options=""), []),
        (HANDLER.format(options=""), THREADS),
        (HANDLER.format(options="background_gzip=True"), THREADS),
        (HANDLER.format(options="background_gzip=True"), [LAZY, "--enable-threads"]),
        (PATTERNS, []),
        (PATTERNS, THREADS),
        (PATTERNS, [LAZY, *THREADS]),
    ],
    ids=[
        "preloaded",
        "preloaded-threads",
        "preloaded-threads-background-gzip",
        "lazy-apps-background-gzip",
        "preloaded-patterns",
        "preloaded-threads-patterns",
        "lazy-apps-threads-patterns",
    ],
)
def test_workers_forked_in_c_lose_nothing(logging_: str, flags: list[str], tmp_path: Path) -> None:
    """Each record of the master and of every worker is in the chain once, though all of them rotate."""
    assert UWSGI is not None
    (tmp_path / "app.py").write_text(f"import logging, os, pathlib, time\n{logging_}{APP}", encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [
        *(UWSGI, "--http-socket", f"127.0.0.1:{port}", "--master", "--processes", str(WORKERS)),
        *("--need-app", "--die-on-term", "--disable-logging", "--module", "app:app", *flags),
    ]
    with service(command, tmp_path) as (process, said):
        wait_for(Counter({"spawned uWSGI worker": WORKERS}), process, said)
        meet(port, WORKERS * (3 if "--threads" in flags else 1))
        load(port)
        if logging_ is PATTERNS and flags:
            # uWSGI ends a worker that it takes for busy without any hook; what is queued then is lost.
            wait_until(lambda: numbers(whole(tmp_path), "half2") == once(REQUESTS), what="the last record")
        process.send_signal(signal.SIGTERM)
        if "--threads" in flags:
            # uWSGI may leave such a worker at accept() for ever, also one that never logs; killing it costs nothing.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        else:
            process.wait(SECONDS)

    text = chain(tmp_path)
    assert "Traceback" not in said.read_text()
    assert numbers(text, "half1") == numbers(text, "half2") == once(REQUESTS)
    masters = numbers(text, "master")
    assert set(masters) == set(range(LOADED))
    assert set(masters.values()) == ({WORKERS} if LAZY in flags else {1})
    assert list(tmp_path.glob("app.log.*.gz")), "it never rotated"


def meet(port: int, cores: int) -> None:
    """Have every core of every worker answer at once: a worker that is still starting does not hear SIGTERM."""

    def ask(_: int) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/up", timeout=SECONDS) as answer:
            answer.read()

    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(ask, range(cores)))


def whole(directory: Path) -> str:
    """The chain as it is at this moment; a file that is renamed meanwhile may be missing."""
    try:
        return chain(directory)
    except (AssertionError, OSError, EOFError):
        return ""
