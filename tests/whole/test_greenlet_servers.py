"""Real servers whose workers are greenlets: gunicorn's, which patch after the fork, and Celery's pool of gevent."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("gunicorn needs fork", allow_module_level=True)

from test_celery import APP, PATTERNS, TASKS
from test_servers import FLASK, GUNICORN, REQUESTS, load, server

from patterns_support import SECONDS, chain, numbers, once, service

pytestmark = [pytest.mark.slow]

SET_UP = """
import logging, time
from concurrent_log_handler.patterns import setup_non_blocking_logging

setup_non_blocking_logging("app.log", 8_000, backup_count=999)
logging.info("loaded")
"""

# A queue of the caller's, and a logging call that lets other greenlets in between.
BY_HAND = """
import logging, queue, time
from concurrent_log_handler import ConcurrentRotatingFileHandler
from concurrent_log_handler.patterns import BatchingQueueListener, GracefulQueueHandler

records = queue.Queue(5000)
logging.getLogger().setLevel(logging.INFO)
logging.getLogger().addHandler(GracefulQueueHandler(records))
file = ConcurrentRotatingFileHandler("app.log", maxBytes=8_000, backupCount=999, use_gzip=True)
BatchingQueueListener(records, file).start()
logging.info("loaded")
"""

APPLICATION = """
def app(environ, start_response):
    time.sleep(0.001)
    logging.info("number %s %s", environ["PATH_INFO"].strip("/"), "x" * 60)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]
"""


@pytest.mark.parametrize(
    "source", [FLASK, SET_UP + APPLICATION, BY_HAND + APPLICATION], ids=["flask", "set-up", "by-hand"]
)
@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["each", "preload"])
@pytest.mark.parametrize("kind", ["gevent", "eventlet"])
def test_every_request_of_greenlets_is_in_the_chain_once(
    source: str, preload: list[str], kind: str, tmp_path: Path
) -> None:
    """With --preload the application, its queue and its listener are there before the worker patches `threading`."""
    worker = {"gevent": "gunicorn.workers.ggevent", "eventlet": "gunicorn.workers.geventlet"}[kind]
    if not importlib.util.find_spec(kind) or not importlib.util.find_spec(worker):
        pytest.skip(f"no {kind} here, or no worker of this gunicorn's for it")
    if (source, kind) == (FLASK, "eventlet"):
        pytest.skip("eventlet's patch of a process that has loaded Flask prints tracebacks of its own")
    with server(source, [*GUNICORN, *preload, "--worker-class", kind], tmp_path) as port:
        load(port)

    text = chain(tmp_path)
    assert numbers(text) == once(REQUESTS)
    assert text.count("loaded") == (1 if preload else 4)
    assert list(tmp_path.glob("app.log.*.gz")), "it never rotated"


def test_every_task_of_celery_is_in_the_chain_once(tmp_path: Path) -> None:
    """Celery patches before it loads the tasks; SIGTERM ends the worker."""
    pytest.importorskip("gevent")
    for folder in ("queue", "control", "done"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tasks.py").write_text(APP.replace("SET_UP", PATTERNS), encoding="utf-8")
    send = f"import tasks\nfor number in range({TASKS}): tasks.work.delay(number)"
    subprocess.run([sys.executable, "-c", send], cwd=tmp_path, check=True, timeout=SECONDS)
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-P", "gevent", "--concurrency", "20"]
    with service(command, tmp_path) as (process, said):
        until = time.monotonic() + SECONDS
        while len(os.listdir(tmp_path / "done")) < TASKS or not (tmp_path / "ready").exists():
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < until, said.read_text()
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        process.wait(SECONDS)

    assert process.returncode == 0, said.read_text()
    assert "Traceback" not in said.read_text()
    assert numbers(chain(tmp_path)) == once(TASKS)
    assert list(tmp_path.glob("app.log.*.gz")), "it never rotated"
