"""A test-suite that freezes time: waits stay bounded in real seconds, and the calendar follows the frozen clock.

freezegun replaces `time.time`, `time.monotonic` and `datetime` in every module that has them by name.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import freezegun
import portalocker
import pytest

from concurrent_log_handler import ConcurrentTimedRotatingFileHandler, _clock
from concurrent_log_handler._access import Access
from concurrent_log_handler._backups._compressor import Worker
from concurrent_log_handler._backups._jobs import Jobs
from concurrent_log_handler._record._livefile import LiveFile
from concurrent_log_handler._record._text import TextFormat
from handler_support import Recording, Strict, a_record, contents, run_program, write

A_DAY = 86_400
posix = pytest.mark.skipif(os.name == "nt", reason="not on Windows")
LATER = dt.datetime(2030, 1, 2, 12)


@pytest.fixture(name="frozen")
def _frozen() -> Iterator[freezegun.api.FrozenDateTimeFactory]:
    with freezegun.freeze_time(LATER) as clock:
        yield clock


@pytest.fixture(name="somebody_else")
def _somebody_else(tmp_path: Path) -> Iterator[None]:
    """Somebody holds the sidecar's lock for as long as the test runs."""
    with open(tmp_path / ".__app.lock", "w") as sidecar:
        portalocker.lock(sidecar, portalocker.LOCK_EX)
        yield


# -- waits ----------------------------------------------------------------------


def test_clock_for_waits_goes_on_while_time_is_frozen(frozen: freezegun.api.FrozenDateTimeFactory) -> None:
    before, fixed = _clock.monotonic(), time.monotonic()
    threading.Event().wait(0.001)

    assert _clock.monotonic() > before
    assert time.monotonic() == fixed


def test_torn_tail_is_sealed_while_time_is_frozen(
    tmp_path: Path, frozen: freezegun.api.FrozenDateTimeFactory
) -> None:
    """Whoever logs waits for a torn tail to be completed, for some hundredths of a second."""
    (tmp_path / "app.log").write_text("left by some other program")
    live = LiveFile(str(tmp_path / "app.log"), Access(), TextFormat("utf-8", "strict", "\n", "\n"))

    live.append(b"one\n", live.look())
    with open(tmp_path / "app.log", "a") as other:
        other.write("torn")
    live.append_apart(b"two\n")

    assert contents(tmp_path) == {"app.log": "left by some other program\none\ntorn\ntwo\n"}


@pytest.mark.parametrize("frozen_at_first", [False, True])
def test_job_ripens_in_real_time_also_where_time_is_frozen_or_freed_meanwhile(
    tmp_path: Path, frozen_at_first: bool
) -> None:
    """The two clocks are decades apart: the wait must be neither that long nor left out."""
    (tmp_path / "app.log.1").write_text("one\n")
    jobs = Jobs(str(tmp_path / "app.log"), Access())
    freezer = freezegun.freeze_time(LATER)

    before = _clock.monotonic()
    if frozen_at_first:
        with freezer:
            job = jobs.claim([str(tmp_path / "app.log.1")])
        job.ripen()
    else:
        job = jobs.claim([str(tmp_path / "app.log.1")])
        with freezer:
            job.ripen()
    waited = _clock.monotonic() - before
    job.close()

    assert 0.001 < waited < 20


def test_backups_are_compressed_while_time_is_frozen(
    tmp_path: Path, frozen: freezegun.api.FrozenDateTimeFactory
) -> None:
    """In the call that rotates, and in the thread that `close()` waits for."""
    for background in (False, True):
        directory = tmp_path / str(background)
        directory.mkdir()
        handler = Strict(
            directory / "app.log", maxBytes=11, backupCount=3, use_gzip=True, background_gzip=background
        )
        write(handler, "one", "two", "three" * 2)
        handler.close()

        assert sorted(contents(directory)) == ["app.log", "app.log.1.gz"]


def test_waiting_for_the_background_ends_while_time_is_frozen(
    frozen: freezegun.api.FrozenDateTimeFactory,
) -> None:
    """`dictConfig()` waits a second for a worker that may wait for the configuration itself."""
    go_on = threading.Event()
    worker = Worker()
    worker.poke(partial(go_on.wait, 60))
    try:
        worker.wait(0.05)
    finally:
        go_on.set()
    worker.wait(None)

    assert not [each for each in threading.enumerate() if each.name == "log compression"]


# core classes
def test_record_is_written_without_the_lock_while_time_is_frozen(
    tmp_path: Path, somebody_else: None, frozen: freezegun.api.FrozenDateTimeFactory
) -> None:
    """`lock_timeout` counts real seconds."""
    handler = Recording(tmp_path / "app.log", maxBytes=100, backupCount=1, lock_timeout=0.1)

    write(handler, "one")

    assert contents(tmp_path) == {"app.log": "one\n"}
    assert len(handler.failures) == 1


# core classes
def test_thread_that_hangs_inside_holds_others_up_for_real_seconds_only(
    tmp_path: Path, frozen: freezegun.api.FrozenDateTimeFactory
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Hanging(Recording):
        def rotation_filename(self, default_name: str) -> str:
            inside.set()
            go_on.wait(30)
            return default_name

    handler = Hanging(tmp_path / "app.log", maxBytes=8, backupCount=1, lock_timeout=0.1)
    write(handler, "one")
    rotating = threading.Thread(target=write, args=(handler, "two two"), daemon=True)
    rotating.start()
    assert inside.wait(30)
    try:
        write(handler, "three")
        with open(tmp_path / "app.log") as log:
            assert log.read() == "one\nthree\n"
    finally:
        go_on.set()
        rotating.join(30)
    assert not rotating.is_alive()


# core classes
def test_rotation_that_failed_is_tried_again_after_time_was_freed(tmp_path: Path) -> None:
    """The pause after a failure must not last from the frozen clock's time to the real one's."""
    handler = Recording(tmp_path / "app.log", maxBytes=8, backupCount=1)
    with freezegun.freeze_time(LATER):
        (tmp_path / "app.log.1").mkdir()
        write(handler, "one", "two two")
        assert len(handler.failures) == 1
    (tmp_path / "app.log.1").rmdir()

    until = _clock.monotonic() + 20
    while not (tmp_path / "app.log.1").exists() and _clock.monotonic() < until:
        write(handler, "three")

    assert contents(tmp_path)["app.log.1"].startswith("one\ntwo two\n")


# core classes
@posix
def test_fork_waits_for_a_busy_thread_for_real_seconds_only(tmp_path: Path) -> None:
    """A thread that hangs inside a step keeps the application from forking for a moment only."""
    output = run_program(
        """
        import datetime, faulthandler, os, threading, time
        faulthandler.dump_traceback_later(25, exit=True)
        import freezegun, warnings, logging
        warnings.simplefilter("ignore")
        from concurrent_log_handler import ConcurrentRotatingFileHandler

        inside, go_on = threading.Event(), threading.Event()

        class Hanging(ConcurrentRotatingFileHandler):
            def rotation_filename(self, default_name):
                inside.set()
                go_on.wait(20)
                return default_name

        handler = Hanging("app.log", maxBytes=8, backupCount=1)
        log = logging.getLogger("x")
        log.addHandler(handler)
        with freezegun.freeze_time("2030-01-01"):
            log.warning("one")
            thread = threading.Thread(target=log.warning, args=("two two",))
            thread.start()
            inside.wait(20)
            pid = os.fork()
            if not pid:
                os._exit(0)
            os.waitpid(pid, 0)
            go_on.set()
            thread.join(20)
        print(open("app.log").read(), end="")
        """,
        tmp_path,
    )

    assert output == "two two\n"


# -- the calendar ---------------------------------------------------------------


class StrictTimed(ConcurrentTimedRotatingFileHandler):
    def handleError(self, record: object) -> None:
        raise  # noqa: PLE0704 - called from inside `except`


# core classes
def test_timed_handler_made_before_follows_a_frozen_clock(tmp_path: Path) -> None:
    """A handler that a module makes when it is imported; the test ticks two days: two rollovers, as in CPython."""
    handler = StrictTimed(tmp_path / "app.log", when="MIDNIGHT", backupCount=9)
    now = dt.datetime.now().replace(hour=12)

    with freezegun.freeze_time(now) as frozen:
        for text in ("day 1", "day 2", "day 3"):
            handler.handle(a_record(text))
            stamp = time.time()
            os.utime(tmp_path / "app.log", (stamp, stamp))  # what the kernel writes there is not frozen
            frozen.tick(A_DAY)

    logs = {name: text for name, text in contents(tmp_path).items() if name.startswith("app.log")}
    assert sorted(logs.values()) == ["day 1\n", "day 2\n", "day 3\n"]


@pytest.mark.parametrize("utc", [False, True])
@pytest.mark.parametrize(("when", "seconds"), [("S", 1), ("M", 60), ("H", 3_600), ("MIDNIGHT", A_DAY)])
def test_timed_handler_made_inside_rolls_over_and_deletes_by_the_frozen_clock(
    tmp_path: Path, when: str, seconds: int, utc: bool, frozen: freezegun.api.FrozenDateTimeFactory
) -> None:
    """Names, boundaries and what is too old: all by the clock that the test turns."""
    handler = StrictTimed(tmp_path / "app.log", when=when, utc=utc, backupCount=2)
    suffixes = []
    for number in range(4):
        handler.handle(a_record(f"period {number}"))
        stamp = time.time()
        os.utime(tmp_path / "app.log", (stamp, stamp))
        moment = time.gmtime(stamp) if utc else time.localtime(stamp)
        suffixes.append(time.strftime(handler.suffix, moment))
        frozen.tick(seconds)

    logs = {name: text for name, text in contents(tmp_path).items() if name.startswith("app.log")}
    assert logs == {
        f"app.log.{suffixes[1]}": "period 1\n",
        f"app.log.{suffixes[2]}": "period 2\n",
        "app.log": "period 3\n",
    }
