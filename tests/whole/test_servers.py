"""Real servers on loopback: gunicorn and uvicorn with several workers, rotating and compressing under load.

Each request carries a number that the application logs.  The load is bounded, the server is stopped by
SIGTERM, and then every number that was answered stands in the chain exactly once.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from patterns_support import SECONDS, chain, numbers, once, service

pytestmark = [pytest.mark.slow]
if sys.platform == "win32":
    pytest.skip("gunicorn needs fork", allow_module_level=True)

REQUESTS = 400
CLIENTS = 4

FLASK = """
from flask import Flask
from concurrent_log_handler.patterns import setup_flask_logging

def create_app():
    app = Flask("shop")
    setup_flask_logging(app, "app.log", 8_000, backup_count=999)

    @app.get("/<int:number>")
    def index(number):
        app.logger.info("number %d %s", number, "x" * 60)
        return "ok"

    return app

app = create_app()
create_app()  # as tests and reloaders do
app.logger.info("loaded")
"""

DJANGO = """
import logging
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from concurrent_log_handler.patterns import django_logging

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="test",
    LOGGING_CONFIG="logging.config.dictConfig",
    LOGGING=django_logging("app.log", 8_000, backup_count=999),
)

def index(request, number):
    logging.getLogger("django.shop").info("number %d %s", number, "x" * 60)
    return HttpResponse("ok")

urlpatterns = [path("<int:number>", index)]
app = get_wsgi_application()
"""

FASTAPI = """
import logging
from contextlib import asynccontextmanager
from fastapi import FastAPI
from concurrent_log_handler.patterns import logging_lifespan

@asynccontextmanager
async def own(app):
    logging.getLogger("shop").info("up")
    yield {"answer": "ok"}
    logging.getLogger("shop").info("down")

app = FastAPI(lifespan=logging_lifespan("app.log", 8_000, backup_count=999, lifespan=own))

@app.get("/{number}")
async def index(number: int):
    logging.getLogger("shop").info("number %d %s", number, "x" * 60)
    return "ok"
"""

# Logging is set up when the module is loaded, and a shutdown is installed in front of uvicorn's own.
FASTAPI_SHUTDOWN = """
import logging
from fastapi import FastAPI
from concurrent_log_handler.patterns import GracefulLoggingShutdown, setup_non_blocking_logging

listener = setup_non_blocking_logging("app.log", 8_000, backup_count=999)

def startup():
    app.state.shutdown = GracefulLoggingShutdown(listener)

def shutdown():
    logging.getLogger("shop").info("down")

app = FastAPI()
app.router.on_startup.append(startup)
app.router.on_shutdown.append(shutdown)

@app.get("/{number}")
async def index(number: int):
    logging.getLogger("shop").info("number %d %s", number, "x" * 60)
    return "ok"
"""

GUNICORN = ["gunicorn", "--workers", "4", "--bind", "127.0.0.1:{port}", "app:app"]
if int(importlib.metadata.version("gunicorn").split(".")[0]) >= 25:
    GUNICORN.insert(1, "--no-control-socket")  # it would lie in the user's home
UVICORN = ["uvicorn", "--workers", "2", "--host", "127.0.0.1", "--port", "{port}", "app:app"]


LOADED = """
import sys
sys.stderr.write("application loaded\\n")
sys.stderr.flush()
"""


def started(command: list[str]) -> Counter[str]:
    """What stands on stderr how often when every worker is up: SIGTERM ends one that is not in its own way."""
    if command[0] == "uvicorn":
        return Counter({"Application startup complete": 2})
    return Counter({"Booting worker": 4, "application loaded": 1 if "--preload" in command else 4})


@contextmanager
def server(source: str, command: list[str], directory: Path) -> Iterator[int]:
    """A running server; at the end SIGTERM, a bounded wait, and no traceback on stderr."""
    (directory / "app.py").write_text(source + LOADED, encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    whole = [sys.executable, "-m", *(part.format(port=port) for part in command)]
    with service(whole, directory) as (process, err):
        wait_for(started(command), process, err)
        yield port
        process.send_signal(signal.SIGTERM)
        process.wait(SECONDS)
    said = err.read_text()
    assert "Traceback" not in said, said
    assert "error" not in said.lower(), said
    assert process.returncode in (0, -signal.SIGTERM), said


def wait_for(expected: Counter[str], process: subprocess.Popen[bytes], err: Path) -> None:
    """Until *err*, the server's own words, holds each text as often as that."""
    last = time.monotonic() + SECONDS
    while any(err.read_text().count(text) < count for text, count in expected.items()):
        assert process.poll() is None, err.read_text()
        assert time.monotonic() < last, err.read_text()
        time.sleep(0.02)


def load(port: int) -> None:
    """Each number is requested once."""
    failed: list[object] = []

    def client(first: int) -> None:
        for number in range(first, REQUESTS, CLIENTS):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
            try:
                connection.request("GET", f"/{number}")
                if connection.getresponse().status != 200:
                    failed.append(number)
            except OSError as error:
                failed.append(error)
            finally:
                connection.close()

    clients = [threading.Thread(target=client, args=(first,), daemon=True) for first in range(CLIENTS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join(SECONDS)
    assert not any(each.is_alive() for each in clients)
    assert not failed


@pytest.mark.parametrize(
    ("source", "command"),
    [
        (FLASK, GUNICORN),
        (FLASK, [*GUNICORN, "--preload"]),
        (FLASK, [*GUNICORN, "--preload", "--worker-class", "gthread", "--threads", "3"]),
        (DJANGO, GUNICORN),
        (DJANGO, [*GUNICORN, "--preload"]),
        (FASTAPI, UVICORN),
        (FASTAPI_SHUTDOWN, UVICORN),
    ],
    ids=[
        "flask-gunicorn",
        "flask-gunicorn-preload",
        "flask-gunicorn-preload-gthread",
        "django-gunicorn",
        "django-gunicorn-preload",
        "fastapi-uvicorn-lifespan",
        "fastapi-uvicorn-shutdown",
    ],
)
def test_every_request_is_in_the_chain_once(source: str, command: list[str], tmp_path: Path) -> None:
    """Workers that were forked, preloaded or spawned; records that were queued when SIGTERM came."""
    with server(source, command, tmp_path) as port:
        load(port)

    text = chain(tmp_path)
    assert numbers(text) == once(REQUESTS)
    assert list(tmp_path.glob("app.log.*.gz")), "it never rotated"
    if source is FLASK:
        assert text.count("loaded") == (1 if "--preload" in command else 4)
    elif source is not DJANGO:
        assert text.count("down") == 2
