"""The deprecated `queue` module: works, stays bounded, survives fork, and says what to use instead."""

from __future__ import annotations

import importlib
import logging
import logging.handlers
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from concurrent_log_handler import ConcurrentRotatingFileHandler
from concurrent_log_handler.patterns import BatchingQueueListener, FastQueueHandler, RecordQueue
from patterns_support import Keep, chain, numbers, once, run_program


@pytest.fixture
def old() -> Iterator[ModuleType]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = importlib.import_module("concurrent_log_handler.queue")
        yield module
        module.stop_queue_listeners()
        module._in_front.clear()


def test_import_and_every_function_warn_and_name_patterns(old: ModuleType) -> None:
    """The warning points at the caller's line."""
    sys.modules.pop("concurrent_log_handler.queue")
    with pytest.warns(DeprecationWarning, match="patterns"):
        importlib.import_module("concurrent_log_handler.queue")
    records = RecordQueue(10)
    for call in (
        old.setup_logging_queues,
        old.stop_queue_listeners,
        old.get_all_logger_names,
        lambda: old.queuify_logger("warned", FastQueueHandler(records), BatchingQueueListener(records)),
    ):
        with pytest.warns(DeprecationWarning, match="patterns") as caught:
            call()
    assert caught[0].filename == __file__


def test_all_handlers_get_a_bounded_queue_and_records_arrive(old: ModuleType, tmp_path: Path) -> None:
    """Also on named loggers; called twice it changes nothing."""
    logger = logging.getLogger("old.shop")
    logger.setLevel(logging.INFO)
    logger.addHandler(ConcurrentRotatingFileHandler(tmp_path / "app.log"))

    old.setup_logging_queues()
    old.setup_logging_queues()
    (handler,) = logger.handlers
    for number in range(100):
        logger.info("number %d", number)
    old.stop_queue_listeners()
    old.stop_queue_listeners()

    assert isinstance(handler, logging.handlers.QueueHandler)
    assert handler.queue.maxsize == 10_000
    assert numbers(chain(tmp_path)) == once(100)
    logger.info("number 100")
    assert numbers(chain(tmp_path)) == once(101)


def test_handler_added_later_joins_at_the_next_call(old: ModuleType) -> None:
    """Each record reaches each handler once."""
    logger = logging.getLogger("old.later")
    logger.setLevel(logging.INFO)
    first, second = Keep(), Keep()
    logger.addHandler(first)
    old.setup_logging_queues()
    logger.info("one")
    logger.addHandler(second)
    old.setup_logging_queues()
    assert len(logger.handlers) == 1, "the first ones would no longer be behind a queue"
    logger.info("two")
    old.stop_queue_listeners()
    old.setup_logging_queues()
    logger.info("three")
    old.stop_queue_listeners()

    assert first.texts == ["one", "two", "three"]
    assert second.texts == ["two", "three"]


def test_logger_names(old: ModuleType) -> None:
    """The root has the empty name, and comes first if it is wanted."""
    logging.getLogger("old.name")

    assert "old.name" in old.get_all_logger_names()
    assert "" not in old.get_all_logger_names()
    assert old.get_all_logger_names(include_root=True)[0] == ""


def test_queuify_one_logger(old: ModuleType) -> None:
    """With the standard library's own classes too."""
    logger = logging.getLogger("old.one")
    keep = Keep()
    logger.addHandler(keep)
    import queue

    records: queue.Queue = queue.Queue(10)
    handler = logging.handlers.QueueHandler(records)
    listener = logging.handlers.QueueListener(records)

    old.queuify_logger("old.one", handler, listener)
    old.queuify_logger(logger, handler, listener)
    listener.start()
    logger.error("hello")
    listener.stop()

    assert logger.handlers == [handler]
    assert keep.texts == ["hello"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_forked_children_log_on(tmp_path: Path) -> None:
    """The old module lost all of a forked child's records."""
    run_program(
        """
        import logging, os, sys, warnings
        warnings.simplefilter("ignore")
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        from concurrent_log_handler.queue import setup_logging_queues
        logging.basicConfig(level=logging.INFO, handlers=[ConcurrentRotatingFileHandler("app.log")])
        setup_logging_queues()
        for number in range(100):
            logging.info("number %d", number)
        child = os.fork()
        for number in range(100):
            logging.info("number %d", number + (100 if child else 200))
        if child:
            assert os.waitpid(child, 0)[1] == 0
        """,
        tmp_path,
    )

    assert numbers(chain(tmp_path)) == once(300)
