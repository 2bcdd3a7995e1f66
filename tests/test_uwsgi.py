"""uWSGI: it forks its workers in C, and without `py-call-osafterfork` no hook of Python's hears of it.

The master loads the application, which logs and rotates there, so that the workers inherit a
handler that has been used, with its lock and its open file.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from patterns_support import SECONDS, chain, numbers, once
from test_servers import REQUESTS, load, wait_for

UWSGI = shutil.which("uwsgi", path=str(Path(sys.executable).parent))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(UWSGI is None, reason="pyuwsgi is not installed in this environment"),
]
LOADED = 300

APP = f"""
import logging
from concurrent_log_handler import ConcurrentRotatingFileHandler

handler = ConcurrentRotatingFileHandler("app.log", maxBytes=4000, backupCount=999, use_gzip=True, **OPTIONS)
logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(process)d %(message)s")
for number in range({LOADED}):
    logging.info("master %d", number)

def app(environ, start_response):
    for half in (1, 2):
        logging.info("half%d %s %s", half, environ["PATH_INFO"].strip("/"), "x" * 60)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]
"""


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({}, []),
        ({}, ["--enable-threads", "--threads", "3"]),
        ({"background_gzip": True}, ["--lazy-apps", "--enable-threads"]),
    ],
    ids=["preloaded", "preloaded-threads", "lazy-apps-background-gzip"],
)
def test_workers_forked_in_c_lose_nothing(options: dict[str, bool], flags: list[str], tmp_path: Path) -> None:
    """Each record of the master and of every worker is in the chain once, though all of them rotate."""
    assert UWSGI is not None
    (tmp_path / "app.py").write_text(f"OPTIONS = {options}\n{APP}", encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    said = tmp_path / "stderr"
    with said.open("wb") as stream:
        process = subprocess.Popen(
            [
                *(UWSGI, "--http-socket", f"127.0.0.1:{port}", "--master", "--processes", "4", "--need-app"),
                *("--die-on-term", "--disable-logging", "--module", "app:app", *flags),
            ],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        wait_for(port, process, said)
        load(port)
        process.send_signal(signal.SIGTERM)
        process.wait(SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(SECONDS)

    text = chain(tmp_path)
    assert "Traceback" not in said.read_text()
    assert numbers(text, "half1") == numbers(text, "half2") == once(REQUESTS)
    masters = numbers(text, "master")
    assert set(masters) == set(range(LOADED))
    assert set(masters.values()) == ({4} if "--lazy-apps" in flags else {1})
    workers = {line.split()[0] for line in text.splitlines() if " half1 " in line}
    assert len(workers) > 1, "one worker took every request"
    assert list(tmp_path.glob("app.log.*.gz")), "it never rotated"
