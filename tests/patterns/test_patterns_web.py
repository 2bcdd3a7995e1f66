"""The set-ups for web frameworks, in one process and without a server; `test_servers.py` has those."""

from __future__ import annotations

import asyncio
import logging
import logging.config
import logging.handlers
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from concurrent_log_handler.patterns import (
    django_logging,
    logging_lifespan,
    setup_flask_logging,
    setup_non_blocking_logging,
)
from patterns_support import chain, numbers, once


def queue_handlers(name: str | None = None) -> list[logging.Handler]:
    handlers = logging.getLogger(name).handlers
    return [each for each in handlers if isinstance(each, logging.handlers.QueueHandler)]


def test_django_logging_is_complete_and_writes_each_record_once(tmp_path: Path) -> None:
    """Root and `django`, which does not propagate."""
    config = django_logging(tmp_path / "app.log", "1 MB")

    logging.config.dictConfig(config)
    logging.getLogger("django.request").info("number 1")
    logging.getLogger("shop").info("number 2")
    logging.getLogger("shop").debug("number 3")
    queue_handlers()[0].listener.stop()

    text = chain(tmp_path)
    assert numbers(text) == once(2, 1)
    assert "] INFO django.request: number 1" in text


def test_django_logging_completes_a_configuration_without_changing_it(tmp_path: Path) -> None:
    """What the project has configured stays."""
    base = {
        "version": 1,
        "disable_existing_loggers": True,
        "handlers": {"console": {"class": "logging.StreamHandler"}},
        "root": {"level": "WARNING", "handlers": ["console"]},
        "loggers": {"django": {"level": "ERROR", "handlers": ["console"]}, "shop": {"propagate": False}},
    }

    config = django_logging(tmp_path / "app.log", base=base, loggers=("django", "shop"), use_gzip=False)

    assert config["disable_existing_loggers"] is True
    assert config["root"] == {"level": "WARNING", "handlers": ["console", "non_blocking_file"]}
    assert config["loggers"]["django"] == {"level": "ERROR", "handlers": ["console"]}
    assert config["loggers"]["shop"] == {
        "propagate": False,
        "level": "INFO",
        "handlers": ["non_blocking_file"],
    }
    assert config["handlers"]["non_blocking_file"]["use_gzip"] is False
    assert base["root"] == {"level": "WARNING", "handlers": ["console"]}
    assert "non_blocking_file" not in base["handlers"]


def test_flask_app_is_equipped_once_however_often_it_is_created(tmp_path: Path) -> None:
    """Two applications of one name share one logger."""
    flask = pytest.importorskip("flask")

    def create_app():
        app = flask.Flask("shop")
        listener = setup_flask_logging(app, tmp_path / "app.log")
        return app, listener

    (_, first), (app, second) = create_app(), create_app()
    app.logger.info("number 1")
    second.stop()

    assert first is second
    assert len(queue_handlers("shop")) == 1
    assert numbers(chain(tmp_path)) == once(1, 1)


def test_lifespan_removes_its_handler_and_writes_all(tmp_path: Path) -> None:
    """A second lifespan in the same process starts afresh."""
    lifespan = logging_lifespan(tmp_path / "app.log")

    async def run(number: int) -> None:
        async with lifespan(None):
            logging.getLogger("shop").info("number %d", number)

    asyncio.run(run(0))
    assert queue_handlers() == []
    asyncio.run(run(1))

    assert queue_handlers() == []
    assert numbers(chain(tmp_path)) == once(2)


def test_lifespan_passes_the_applications_own_state_and_error_on(tmp_path: Path) -> None:
    """And writes all the same."""
    order: list[str] = []

    @asynccontextmanager
    async def own(app):
        logging.info("number 0")
        try:
            yield {"app": app}
        finally:
            logging.info("number 2")
            order.append("own")

    async def run() -> None:
        async with logging_lifespan(tmp_path / "app.log", lifespan=own)("the app") as state:
            assert state == {"app": "the app"}
            logging.info("number 1")
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        asyncio.run(run())

    assert order == ["own"]
    assert queue_handlers() == []
    assert numbers(chain(tmp_path)) == once(3)


def test_two_applications_share_one_file_until_the_last_one_ends(tmp_path: Path) -> None:
    """Mounted applications, or two test clients."""
    lifespan = logging_lifespan(tmp_path / "app.log")

    async def run() -> None:
        async with lifespan("one"):
            async with lifespan("two"):
                assert len(queue_handlers()) == 1
                logging.info("number 0")
            logging.info("number 1")

    asyncio.run(run())

    assert numbers(chain(tmp_path)) == once(2)


def test_fastapi_takes_the_lifespan(tmp_path: Path) -> None:
    """Under its own test client."""
    fastapi = pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the client's own
        from fastapi.testclient import TestClient
    app = fastapi.FastAPI(lifespan=logging_lifespan(tmp_path / "app.log"))

    @app.get("/{number}")
    async def index(number: int) -> str:
        logging.getLogger("shop").info("number %d", number)
        return "ok"

    with TestClient(app) as client:
        for number in range(20):
            assert client.get(f"/{number}").status_code == 200

    assert numbers(chain(tmp_path)) == once(20)


def test_lifespan_leaves_a_set_up_by_hand_in_force(tmp_path: Path) -> None:
    """What was there before it, and is the same, is not its own to take off."""
    listener = setup_non_blocking_logging("app.log", backup_count=10)

    async def run() -> None:
        async with logging_lifespan("app.log", 10 * 1024 * 1024)(None):
            logging.info("number 0")

    asyncio.run(run())
    logging.info("number 1")

    assert not listener.stopped
    assert listener.stop() == 0
    assert numbers(chain(tmp_path)) == once(2)


def test_nested_lifespans_give_the_logger_back(tmp_path: Path) -> None:
    """Also to a set-up that was there before the first of them."""
    setup_non_blocking_logging("outer.log", use_gzip=False, format="%(message)s")

    async def run() -> None:
        options: dict[str, Any] = {"use_gzip": False, "format": "%(message)s"}
        async with logging_lifespan("a.log", **options)(None):
            logging.info("a1")
            async with logging_lifespan("b.log", **options)(None):
                logging.info("b1")
            logging.info("a2")

    logging.info("before")
    asyncio.run(run())
    logging.info("after")
    setup_non_blocking_logging("other.log")  # which ends it

    texts = {path.name: path.read_text().split() for path in tmp_path.glob("[abo]*.log")}
    assert texts == {"outer.log": ["before", "after"], "a.log": ["a1", "a2"], "b.log": ["b1"]}
