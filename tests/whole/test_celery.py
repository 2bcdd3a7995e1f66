"""A real Celery worker with its prefork pool: children that are replaced while they log, rotate and compress."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from patterns_support import SECONDS, chain, numbers, once, service

pytestmark = [pytest.mark.slow]
if sys.platform == "win32":
    pytest.skip("prefork needs fork", allow_module_level=True)

TASKS = 120

APP = """
import logging
from pathlib import Path

from celery import Celery
from celery.signals import setup_logging, worker_ready
from concurrent_log_handler import ConcurrentRotatingFileHandler
from concurrent_log_handler.patterns import setup_non_blocking_logging

app = Celery("tasks", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control",
}
app.conf.broker_connection_retry_on_startup = True

@setup_logging.connect
def one_file_for_all(**_):
    SET_UP

@worker_ready.connect
def ready(**_):
    Path("ready").touch()

@app.task(ignore_result=True)
def work(number):
    logging.getLogger("shop").info("number %d %s", number, "x" * 60)
    Path("done", str(number)).touch()
"""

HANDLER = """logging.basicConfig(level=logging.INFO, handlers=[
        ConcurrentRotatingFileHandler("app.log", maxBytes=4000, backupCount=999, use_gzip=True)
    ])"""
PATTERNS = 'setup_non_blocking_logging("app.log", 4000, backup_count=999)'


@pytest.mark.parametrize("set_up", [HANDLER, PATTERNS], ids=["handler", "patterns"])
def test_every_task_is_in_the_chain_once(set_up: str, tmp_path: Path) -> None:
    """Each child is replaced after ten tasks, which ends it without `atexit`; SIGTERM ends the worker."""
    for folder in ("queue", "control", "done"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tasks.py").write_text(APP.replace("SET_UP", set_up), encoding="utf-8")
    send = f"import tasks\nfor number in range({TASKS}): tasks.work.delay(number)"
    subprocess.run([sys.executable, "-c", send], cwd=tmp_path, check=True, timeout=SECONDS)
    command = [
        *(sys.executable, "-m", "celery", "-A", "tasks", "worker", "--pool", "prefork"),
        *("--concurrency", "3", "--max-tasks-per-child", "10"),
    ]
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
