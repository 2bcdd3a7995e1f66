"""The timed handler on a disk: when it rolls, what the files are called, and what other processes see.

The calendar's own tests are in `test_calendar`; here time is an argument, too: no test waits for a
boundary.  The modification times that the handler looks at are set to the same clock.
"""

from __future__ import annotations

import datetime as dt
import logging
import logging.config
import logging.handlers
import os
import pickle
import re
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concurrent_log_handler import ConcurrentTimedRotatingFileHandler
from handler_support import a_record, contents, in_a_fork
from process_helpers import parse, run_program

DAY = 86_400
HOUR = 3_600
START = 1_764_072_000  # 2025-11-25 12:00:00 UTC, a Tuesday


class Clock:
    """Time that moves when a test says so."""

    def __init__(self, at: float = START) -> None:
        self.at = float(at)

    def __call__(self) -> float:
        return self.at


class Timed(ConcurrentTimedRotatingFileHandler):
    """Told the time by the test; an error is the test's."""

    clock = Clock()

    def finalize_handler_configuration(self) -> None:
        self._schedule.clock = self.clock

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # noqa: PLE0704 - called from inside `except`


class Recording(Timed):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.failures: list[BaseException] = []
        super().__init__(*args, **kwargs)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        assert error is not None
        self.failures.append(error)


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Timed.clock = Clock()
    zone(monkeypatch, "UTC")
    yield
    monkeypatch.undo()
    if hasattr(time, "tzset"):
        time.tzset()


def zone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if hasattr(time, "tzset"):
        monkeypatch.setenv("TZ", name)
        time.tzset()
    elif name != "UTC" or time.timezone or time.daylight:
        pytest.skip("a process cannot change its time zone")


def write(handler: ConcurrentTimedRotatingFileHandler, *texts: str) -> None:
    """Log *texts* and date the file by the handler's clock."""
    for text in texts:
        handler.handle(a_record(text))
        when = handler._schedule.clock()
        os.utime(handler.baseFilename, (when, when))


def at(handler: ConcurrentTimedRotatingFileHandler, moment: float, *texts: str) -> None:
    handler._schedule.clock.at = moment  # type: ignore[attr-defined]
    write(handler, *texts)


def sidecar(directory: Path) -> str:
    return (directory / ".__app.lock").read_text()


def logs(directory: Path) -> dict[str, str]:
    found = contents(directory)
    found.pop(".__app.lock", None)
    return found


# -- boundaries -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "seconds", "name"),
    [
        ("s", 1, "app.log.2025-11-25_12-00-00"),
        ("M", 60, "app.log.2025-11-25_12-00"),
        ("h", HOUR, "app.log.2025-11-25_12"),
        ("D", DAY, "app.log.2025-11-25"),
        ("midnight", DAY // 2, "app.log.2025-11-25"),
        ("W1", DAY // 2, "app.log.2025-11-19"),
    ],
)
def test_first_record_at_the_boundary_goes_into_a_new_file(
    tmp_path: Path, when: str, seconds: int, name: str
) -> None:
    handler = Timed(tmp_path / "app.log", when)
    write(handler, "first")
    at(handler, START + seconds - 0.001, "just before")
    at(handler, START + seconds, "at the boundary")
    assert logs(tmp_path) == {name: "first\njust before\n", "app.log": "at the boundary\n"}
    assert handler.num_rollovers == 1
    assert handler.rolloverAt > START + seconds
    assert sidecar(tmp_path) == str(handler.rolloverAt)
    handler.close()


def test_interval_counts_periods(tmp_path: Path) -> None:
    handler = Timed(tmp_path / "app.log", "H", interval=3)
    write(handler, "a")
    at(handler, START + 3 * HOUR - 1, "b")
    at(handler, START + 3 * HOUR, "c")
    assert logs(tmp_path) == {"app.log.2025-11-25_12": "a\nb\n", "app.log": "c\n"}
    handler.close()


def test_at_time_and_its_time_zone_that_is_ignored(tmp_path: Path) -> None:
    handler = Timed(
        tmp_path / "app.log",
        "MIDNIGHT",
        atTime=dt.time(15, 30, tzinfo=dt.timezone(dt.timedelta(hours=5))),
    )
    assert handler.rolloverAt == START + 3.5 * HOUR
    handler.close()


def test_wrong_arguments_are_clear_errors(tmp_path: Path) -> None:
    for keywords, error in (
        ({"when": "X"}, ValueError),
        ({"interval": 0}, ValueError),
        ({"interval": "1"}, TypeError),
        ({"atTime": "12:00"}, TypeError),
        ({"mode": "w"}, ValueError),
        ({"backupCount": -1}, ValueError),
        ({"maxBytes": -1}, ValueError),
    ):
        with pytest.raises(error, match=f"{next(iter(keywords))} must be"):
            ConcurrentTimedRotatingFileHandler(tmp_path / "app.log", **keywords)
    assert os.listdir(tmp_path) == []


def test_several_boundaries_without_a_record_give_one_backup(tmp_path: Path) -> None:
    """The data is named for the period it was written in; there is no chain of empty files."""
    handler = Timed(tmp_path / "app.log", "MIDNIGHT")
    write(handler, "Tuesday")
    at(handler, START + 6 * DAY, "Monday")
    assert logs(tmp_path) == {"app.log.2025-11-25": "Tuesday\n", "app.log": "Monday\n"}
    handler.close()


def test_process_that_was_down_over_boundaries_rolls_once(tmp_path: Path) -> None:
    first = Timed(tmp_path / "app.log", "MIDNIGHT")
    write(first, "Tuesday")
    first.close()
    Timed.clock.at = START + 3 * DAY
    second = Timed(tmp_path / "app.log", "MIDNIGHT")
    assert logs(tmp_path) == {"app.log": "Tuesday\n"}, "construction moves nothing"
    write(second, "Friday", "too")
    assert logs(tmp_path) == {"app.log.2025-11-25": "Tuesday\n", "app.log": "Friday\ntoo\n"}
    second.close()


def test_log_of_another_handler_is_named_by_its_last_write(tmp_path: Path) -> None:
    """There is no sidecar yet, as after a change over from the standard library."""
    (tmp_path / "app.log").write_text("old\n")
    os.utime(tmp_path / "app.log", (START - 2 * DAY, START - 2 * DAY))
    handler = Timed(tmp_path / "app.log", "MIDNIGHT")
    assert handler.rolloverAt == START - 1.5 * DAY
    write(handler, "new")
    assert logs(tmp_path) == {"app.log.2025-11-23": "old\n", "app.log": "new\n"}
    handler.close()


def test_sidecar_from_long_ago_is_not_believed(tmp_path: Path) -> None:
    """Another program had the log meanwhile: what it wrote today is no file of last year, first to be pruned."""
    (tmp_path / ".__app.lock").write_text(str(START - 400 * DAY))
    (tmp_path / "app.log").write_text("today\n")
    os.utime(tmp_path / "app.log", (START - HOUR, START - HOUR))
    handler = Timed(tmp_path / "app.log", "MIDNIGHT", backupCount=1)
    write(handler, "still today")
    assert logs(tmp_path) == {"app.log": "today\nstill today\n"}
    assert int(sidecar(tmp_path)) == START + DAY // 2
    handler.close()


def test_file_that_stayed_empty_is_not_rolled(tmp_path: Path) -> None:
    handler = Timed(tmp_path / "app.log", "H", delay=False)
    handler.emit_batch([])
    (tmp_path / ".__app.lock").write_text(str(START - HOUR))
    at(handler, START, "a")
    assert logs(tmp_path) == {"app.log": "a\n"}
    assert handler.num_rollovers == 0
    assert handler.rolloverAt == START + HOUR
    handler.close()


@pytest.mark.parametrize("moment", ["2025-03-30", "2025-10-26"])
def test_each_midnight_around_a_clock_change_rolls_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    zone(monkeypatch, "Europe/Berlin")
    begin = int(time.mktime(time.strptime(moment, "%Y-%m-%d"))) - 2 * DAY
    Timed.clock.at = begin
    handler = Timed(tmp_path / "app.log", "MIDNIGHT")
    for step in range(5 * 24):
        moment_now = begin + step * HOUR
        at(handler, moment_now, time.strftime("%Y-%m-%d", time.localtime(moment_now)))
    handler.close()
    found = logs(tmp_path)
    live = found.pop("app.log")
    assert len(found) == handler.num_rollovers >= 4
    for name, text in [*found.items(), ("app.log." + live.split("\n")[0], live)]:
        assert set(text.split()) == {name[len("app.log.") :]}


def test_hour_that_the_clock_shows_twice_gives_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone(monkeypatch, "Europe/Berlin")
    two = 1_761_436_800  # 2025-10-26 00:00 UTC, 02:00 in Berlin, shown again an hour later
    Timed.clock.at = two
    handler = Timed(tmp_path / "app.log", "H")
    for hour in range(3):
        at(handler, two + hour * HOUR, str(hour))
    assert logs(tmp_path) == {
        "app.log.2025-10-26_02": "0\n",
        "app.log.2025-10-26_02.1": "1\n",
        "app.log": "2\n",
    }
    handler.close()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(
    when=st.sampled_from(["S", "M", "H", "D", "MIDNIGHT", "W0", "W3", "W6"]),
    pauses=st.lists(st.integers(0, 3 * DAY), min_size=1, max_size=12),
    begin=st.integers(1_600_000_000, 1_900_000_000),
)
def test_one_process_makes_the_files_that_the_standard_library_makes(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    pauses: list[int],
    begin: int,
) -> None:
    """In UTC, where the standard library knows its way, the same names hold the same records."""
    ours, theirs = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("theirs")
    clock = Clock(begin)
    Timed.clock = clock
    handler = Timed(ours / "app.log", when, utc=True)
    with monkeypatch.context() as patch:
        patch.setattr(logging.handlers.time, "time", clock)
        stdlib = logging.handlers.TimedRotatingFileHandler(theirs / "app.log", when, utc=True, delay=True)
        for number, pause in enumerate([0, *pauses]):
            clock.at += pause
            write(handler, str(number))
            stdlib.handle(a_record(str(number)))
        stdlib.close()
    handler.close()
    assert logs(ours) == logs(theirs)


# -- the time that is shared ------------------------------------------------------


def test_handlers_go_by_the_time_in_the_lock_file(tmp_path: Path) -> None:
    first, second = (Timed(tmp_path / "app.log", "H") for _ in range(2))
    write(first, "a")
    write(second, "b")
    assert first.rolloverAt == second.rolloverAt == START + HOUR
    at(second, START + HOUR, "c")
    write(first, "d")
    assert first.rolloverAt == second.rolloverAt == START + 2 * HOUR
    assert (first.num_rollovers, second.num_rollovers) == (0, 1)
    assert logs(tmp_path) == {"app.log.2025-11-25_12": "a\nb\n", "app.log": "c\nd\n"}
    first.close()
    second.close()


@pytest.mark.parametrize(
    "content", ["", "0", "-5", "nonsense", "946684799", str(START + 10 * DAY), "9" * 60, "\0\0\0\0", "1e9"]
)
def test_useless_content_heals(tmp_path: Path, content: str) -> None:
    (tmp_path / ".__app.lock").write_text(content)
    handler = Timed(tmp_path / "app.log", "H")
    write(handler, "a")
    assert sidecar(tmp_path) == str(START + HOUR)
    at(handler, START + HOUR, "b")
    assert logs(tmp_path) == {"app.log.2025-11-25_12": "a\n", "app.log": "b\n"}
    handler.close()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"17640720", b""])
def test_content_destroyed_while_running_heals(tmp_path: Path, content: bytes) -> None:
    handler = Timed(tmp_path / "app.log", "H")
    write(handler, "a")
    (tmp_path / ".__app.lock").write_bytes(content)
    at(handler, START + HOUR, "b")
    assert logs(tmp_path) == {"app.log.2025-11-25_12": "a\n", "app.log": "b\n"}
    assert sidecar(tmp_path) == str(START + 2 * HOUR)
    handler.close()


@pytest.mark.skipif(os.name == "nt", reason="nobody deletes an open lock file there")
def test_lock_file_deleted_while_running_heals(tmp_path: Path) -> None:
    handler = Timed(tmp_path / "app.log", "H")
    write(handler, "a")
    (tmp_path / ".__app.lock").unlink()
    at(handler, START + HOUR, "b")
    at(handler, START + 2 * HOUR, "c")
    assert "".join(sorted(logs(tmp_path).values())) == "a\nb\nc\n"
    assert len(logs(tmp_path)) >= 2
    handler.close()


def test_clock_that_jumps_ahead_and_back_goes_on_rolling(tmp_path: Path) -> None:
    handler = Timed(tmp_path / "app.log", "H")
    write(handler, "a")
    at(handler, START + 1000 * DAY, "far ahead")
    assert handler.num_rollovers == 1
    at(handler, START + 60, "back")
    assert handler.num_rollovers == 1
    assert handler.rolloverAt <= START + 60 + HOUR
    at(handler, START + 60 + HOUR, "an hour later")
    at(handler, START + 61 + HOUR, "and no loop")
    assert handler.num_rollovers == 2
    handler.close()


def test_clock_before_2000_costs_no_record(tmp_path: Path) -> None:
    """A board without a battery begins in 1970; its network time comes later."""
    Timed.clock.at = 1000.0
    handler = Timed(tmp_path / "app.log", "S")
    for second in range(5):
        at(handler, 1000.0 + second, str(second))
    at(handler, START, "now")
    at(handler, START + 2, "later")
    assert "".join(logs(tmp_path)[name] for name in sorted(logs(tmp_path), reverse=True)).count("\n") == 7
    assert handler.num_rollovers >= 1
    handler.close()


def test_no_record_between_boundaries_reads_the_lock_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Timed(tmp_path / "app.log", "H")
    write(handler, "first")
    monkeypatch.setattr(type(handler._lock), "read", lambda self: pytest.fail("read"))
    at(handler, START + HOUR - 1, "a", "b", "c")
    handler.close()


def test_rollover_time_set_by_the_application(tmp_path: Path) -> None:
    for value in (0, START - 1, START - 0.5, 1):
        handler = Timed(tmp_path / "app.log", "H")
        at(handler, START, "before")
        handler.rolloverAt = value
        write(handler, "after")
        assert handler.num_rollovers == 1
        assert handler.rolloverAt == START + HOUR
        assert logs(tmp_path)["app.log"] == "after\n"
        assert len(logs(tmp_path)) == 2
        handler.close()
        for path in tmp_path.iterdir():
            path.unlink()


def test_rollover_time_that_a_subclass_sets_while_rolling_is_everybodys(tmp_path: Path) -> None:
    class OnTheHour(Timed):
        def doRollover(self) -> None:
            super().doRollover()
            self._locks.exclusive(self.shift)

        def shift(self, held: bool) -> None:
            assert held
            self.rolloverAt = (int(self._schedule.clock()) // HOUR + 1) * HOUR

    handler = OnTheHour(tmp_path / "app.log", "H")
    write(handler, "a")
    at(handler, START + HOUR + 100, "b")
    assert handler.rolloverAt == START + 2 * HOUR
    assert sidecar(tmp_path) == str(START + 2 * HOUR)
    handler.close()


def test_calendar_of_a_subclass(tmp_path: Path) -> None:
    """Months, say: the shared time is believed although MIDNIGHT would come earlier."""

    class Monthly(Timed):
        def computeRollover(self, currentTime: float) -> int:
            day = dt.datetime.fromtimestamp(currentTime, dt.timezone.utc).replace(
                day=1, hour=0, minute=0, second=0, microsecond=0
            )
            return int((day + dt.timedelta(days=32)).replace(day=1).timestamp())

    handlers = [Monthly(tmp_path / "app.log", "MIDNIGHT") for _ in range(2)]
    for day in range(0, 70, 3):
        for handler in handlers:
            at(handler, START + day * DAY, "x")
    assert sorted(logs(tmp_path)) == [
        "app.log",
        "app.log.2025-11-30",
        "app.log.2025-12-31",
        "app.log.2026-01-31",
    ]
    for handler in handlers:
        handler.close()


# -- size inside a period -----------------------------------------------------------


def test_size_rolls_inside_a_period_and_keeps_the_boundary(tmp_path: Path) -> None:
    handler = Timed(tmp_path / "app.log", "MIDNIGHT", maxBytes=10)
    write(handler, "aaaa", "bbbb", "cccc")
    assert handler.rolloverAt == START + DAY // 2
    at(handler, START + DAY, "dddd", "eeee")
    assert logs(tmp_path) == {
        "app.log.2025-11-25": "aaaa\n",
        "app.log.2025-11-25.1": "bbbb\n",
        "app.log.2025-11-25.2": "cccc\n",
        "app.log.2025-11-26": "dddd\n",
        "app.log": "eeee\n",
    }
    handler.close()


def test_backup_count_counts_files_and_numbers_are_not_used_again(tmp_path: Path) -> None:
    handler = Timed(tmp_path / "app.log", "MIDNIGHT", maxBytes=10, backupCount=2)
    write(handler, "aaaa", "bbbb", "cccc", "dddd")
    names = sorted(logs(tmp_path))
    assert names == ["app.log", "app.log.2025-11-25.1", "app.log.2025-11-25.2"]
    at(handler, START + DAY, "x" * 9)
    assert sorted(logs(tmp_path)) == ["app.log", "app.log.2025-11-25.2", "app.log.2025-11-25.3"]
    handler.close()


def test_limits_may_be_set_after_construction(tmp_path: Path) -> None:
    handler = Timed(tmp_path / "app.log", "MIDNIGHT")
    write(handler, "aaaaaaaa", "bbbbbbbb")
    handler.maxBytes, handler.backupCount = 10, 1
    write(handler, "cccccccc", "dddddddd")
    assert sorted(logs(tmp_path)) == ["app.log", "app.log.2025-11-25.1"]
    handler.close()


def test_interval_may_be_set_after_construction(tmp_path: Path) -> None:
    handler = Timed(tmp_path / "app.log", "H")
    handler.interval = 60
    write(handler, "a")
    at(handler, START + 60, "b")
    assert len(logs(tmp_path)) == 2
    handler.close()


# -- names -----------------------------------------------------------------------


def test_only_what_this_handler_made_is_pruned(tmp_path: Path) -> None:
    foreign = [
        "app.log.old",
        "app.log2",
        "app.log.2020-01-01.bak",
        "app.log.audit.2020-01-01",
        "app.log.2020-13-45",
        "app.log.2020-01-01_10",
        "xapp.log.2020-01-01",
    ]
    for name in [*foreign, "app.log.2020-01-01", "app.log.2020-01-02.3.gz"]:
        (tmp_path / name).write_bytes(b"")
    handler = Timed(tmp_path / "app.log", "MIDNIGHT", backupCount=1)
    write(handler, "a")
    at(handler, START + DAY, "b")
    assert set(os.listdir(tmp_path)) == {*foreign, "app.log", "app.log.2025-11-25", ".__app.lock"}
    handler.close()


@pytest.mark.parametrize("use_gzip", [False, True])
def test_own_suffix_and_namer(tmp_path: Path, use_gzip: bool) -> None:
    class Own(Timed):
        def finalize_handler_configuration(self) -> None:
            super().finalize_handler_configuration()
            self.suffix = "%Y%m%d"
            self.extMatch = re.compile(r"\d{8}")
            self.namer = lambda name: Path(re.sub(r"app\.log\.(.*)", r"app-\1.log", name))  # type: ignore[assignment]

    handler = Own(tmp_path / "app.log", "MIDNIGHT", backupCount=2, use_gzip=use_gzip)
    for day in range(4):
        at(handler, START + day * DAY, str(day))
    gz = ".gz" if use_gzip else ""
    assert set(logs(tmp_path)) == {"app.log", f"app-20251126.log{gz}", f"app-20251127.log{gz}"}
    handler.close()


def test_rotation_filename_and_rotate_of_a_subclass(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()

    class Own(Timed):
        def rotation_filename(self, default_name: str) -> str:
            return str(tmp_path / "old" / os.path.basename(default_name))

        def rotate(self, source: str, dest: str) -> None:
            os.rename(source, dest)

    handler = Own(tmp_path / "app.log", "MIDNIGHT", backupCount=2)
    for day in range(4):
        at(handler, START + day * DAY, str(day))
    assert set(logs(tmp_path)) == {"app.log", "old/app.log.2025-11-26", "old/app.log.2025-11-27"}
    handler.close()


def test_files_to_delete_of_a_subclass(tmp_path: Path) -> None:
    class KeepsTheFirst(Timed):
        def getFilesToDelete(self) -> list[str]:
            return [path for path in super().getFilesToDelete() if not path.endswith("25")]

    handler = KeepsTheFirst(tmp_path / "app.log", "MIDNIGHT", backupCount=1)
    for day in range(4):
        at(handler, START + day * DAY, str(day))
    assert set(logs(tmp_path)) == {"app.log", "app.log.2025-11-25", "app.log.2025-11-27"}
    handler.close()


def test_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    (tmp_path / "app.log.2025-11-25").mkdir()
    (tmp_path / "app.log.2025-11-25.1.gz").write_bytes(b"")
    handler = Timed(tmp_path / "app.log", "MIDNIGHT")
    write(handler, "a")
    at(handler, START + DAY, "b")
    assert (tmp_path / "app.log.2025-11-25.2").read_text() == "a\n"
    handler.close()


# -- by hand and in subclasses -----------------------------------------------------


def test_do_rollover_by_hand(tmp_path: Path) -> None:
    handler = Timed(tmp_path / "app.log", "H")
    write(handler, "a")
    handler._schedule.clock.at += 600  # type: ignore[attr-defined]
    handler.doRollover()
    assert handler.rolloverAt == START + 600 + HOUR
    write(handler, "b")
    handler.doRollover()
    assert logs(tmp_path) == {
        "app.log.2025-11-25_12": "a\n",
        "app.log.2025-11-25_12.1": "b\n",
        "app.log": "",
    }
    assert handler.num_rollovers == 2
    handler.close()


def test_should_rollover_of_a_subclass_decides(tmp_path: Path) -> None:
    class Everything(Timed):
        def shouldRollover(self, record: logging.LogRecord) -> bool:
            return "!" in record.getMessage() or super().shouldRollover(record)

    handler = Everything(tmp_path / "app.log", "MIDNIGHT")
    write(handler, "a", "b!", "c")
    at(handler, START + DAY, "d")
    assert logs(tmp_path) == {
        "app.log.2025-11-25": "a\n",
        "app.log.2025-11-25.1": "b!\nc\n",
        "app.log": "d\n",
    }
    handler.close()


def test_init_with_kwargs_as_clh_users_write_it(tmp_path: Path) -> None:
    class Old(ConcurrentTimedRotatingFileHandler):
        def __init__(self, filename: str, *args: Any, **kwargs: Any) -> None:
            self.suffix = "overwritten by the base"
            super().__init__(filename, *args, **kwargs)

        def emit(self, record: logging.LogRecord) -> None:
            record.msg = f"[{record.msg}]"
            super().emit(record)

    handler = Old(
        str(tmp_path / "app.log"),
        "d",
        1,
        3,
        "utf-8",
        False,
        True,
        None,
        None,
        100,
        use_gzip=True,
        owner=None,
        chmod=0o640,
        umask=None,
        newline="",
        terminator="\n",
        unicode_error_policy="ignore",
        lock_file_directory=str(tmp_path / "locks"),
        keep_file_open=True,
        mode="a",
        debug=False,
    )
    handler.handle(a_record("x"))
    assert isinstance(handler, logging.handlers.TimedRotatingFileHandler)
    assert isinstance(handler, logging.handlers.BaseRotatingHandler)
    assert handler.lockFilename == str(tmp_path / "locks" / ".__app.lock")
    assert handler.clh.maxBytes == 100
    assert (handler.when, handler.interval, handler.backupCount, handler.utc) == ("D", DAY, 3, True)
    assert (tmp_path / "app.log").read_text() == "[x]\n"
    handler.close()


def test_rollover_that_fails_costs_no_record_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Recording(tmp_path / "app.log", "H")

    def refuse(source: str, target: str) -> None:
        raise PermissionError(13, "no", target)

    write(handler, "a")
    handler.rotator = refuse
    at(handler, START + HOUR, "b", "c")
    assert [type(each) for each in handler.failures] == [PermissionError]
    assert logs(tmp_path) == {"app.log": "a\nb\nc\n"}
    handler.rotator = None
    handler._rotation.trouble.until = 0.0
    write(handler, "d")
    assert logs(tmp_path) == {"app.log.2025-11-25_12": "a\nb\nc\n", "app.log": "d\n"}
    handler.close()


@pytest.mark.skipif(os.name == "nt", reason="/dev/null")
def test_device_is_never_renamed() -> None:
    handler = Recording("/dev/null", "S", lock_file_directory=".")
    handler.rolloverAt = 0
    assert not handler.shouldRollover(a_record("w"))  # nothing has been opened yet
    handler.handle(a_record("x"))
    handler._schedule.clock.at += 5  # type: ignore[attr-defined]
    handler.handle(a_record("y"))
    assert not os.path.isfile("/dev/null")
    assert handler.failures == []
    handler.close()


# -- configuration, copies, processes -------------------------------------------------


def test_dict_config_and_file_config(tmp_path: Path) -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "handlers": {
                "file": {
                    "class": "concurrent_log_handler.ConcurrentTimedRotatingFileHandler",
                    "filename": str(tmp_path / "dict.log"),
                    "when": "midnight",
                    "maxBytes": "10 MB",
                    "max_age": 86400,
                    "max_total_bytes": "1 GB",
                    "on_rotated": "ext://os.path.basename",
                }
            },
            "loggers": {"timed.dict": {"handlers": ["file"], "level": "INFO"}},
        }
    )
    logging.getLogger("timed.dict").info("x")
    assert (tmp_path / "dict.log").read_text() == "x\n"
    ini = tmp_path / "log.ini"
    ini.write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=file\n[formatters]\nkeys=\n"
        "[logger_root]\nlevel=INFO\nhandlers=file\n"
        "[handler_file]\nclass=handlers.ConcurrentTimedRotatingFileHandler\n"
        "args=('ini.log', 'H', 1, 5)\n"
    )
    logging.config.fileConfig(ini)
    logging.info("y")
    assert (tmp_path / "ini.log").read_text() == "y\n"


def test_pickle_and_fork(tmp_path: Path) -> None:
    handler = ConcurrentTimedRotatingFileHandler(
        tmp_path / "app.log", "MIDNIGHT", maxBytes=1000, backupCount=3
    )
    handler.handle(a_record("a"))
    copy = pickle.loads(pickle.dumps(handler))
    copy.handle(a_record("b"))
    in_a_fork(lambda: handler.handle(a_record("c")))
    assert logs(tmp_path) == {"app.log": "a\nb\nc\n"}
    assert copy.rolloverAt == handler.rolloverAt
    assert (copy.backupCount, copy.maxBytes, copy.suffix) == (3, 1000, handler.suffix)
    handler.close()
    copy.close()


def test_batch_over_a_boundary(tmp_path: Path) -> None:
    handler = Timed(tmp_path / "app.log", "H")
    handler.emit_batch([a_record("a"), a_record("b")])
    os.utime(tmp_path / "app.log", (START, START))
    handler._schedule.clock.at = START + HOUR  # type: ignore[attr-defined]
    handler.emit_batch([a_record("c"), a_record("d")])
    assert logs(tmp_path) == {"app.log.2025-11-25_12": "a\nb\n", "app.log": "c\nd\n"}
    handler.close()


# -- many processes, and dying ones ---------------------------------------------------

KILLS = """
steps = Steps()
import json, shutil
from concurrent_log_handler import ConcurrentTimedRotatingFileHandler

START, HOUR = 1_764_072_000, 3600
options = json.loads(sys.argv[1])

def opened(at):
    handler = ConcurrentTimedRotatingFileHandler("app.log", "H", utc=True, **options)
    handler._schedule.clock = lambda: at
    return handler

def log(handler, text):
    handler.handle(a_record(text))
    when = handler._schedule.clock()
    os.utime("app.log", (when, when))

def before():
    handler = opened(START)
    log(handler, "before")
    handler.close()

def victim(step):
    handler = opened(START + HOUR + 5)
    steps.arm(step)
    handler.handle(a_record("victim"))
    steps.armed = False
    if steps.done >= step:
        os._exit(0)
    os._exit(17)

def healthy():
    handler = opened(START + HOUR + 6)
    log(handler, "healthy")
    log(handler, "again")
    handler.close()

def later():
    handler = opened(START + 3 * HOUR)
    log(handler, "later")
    handler.close()

for step in range(1, 200):
    os.makedirs(f"../{step}")
    os.chdir(f"../{step}")
    run_children(before)
    [status] = join(start(lambda: victim(step)))
    assert os.WIFSIGNALED(status) or status >> 8 == 17, status
    run_children(healthy)
    run_children(later)
    if not os.WIFSIGNALED(status):
        print(step)
        break
"""


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize(
    "options",
    ['{"use_gzip": true}', '{"backupCount": 5, "maxBytes": 1000}', '{"use_gzip": true, "chmod": 384}'],
)
def test_killed_after_each_step_of_a_rollover(tmp_path: Path, options: str) -> None:
    """Nothing is lost or doubled, no period is split, and no file gets the name of another period."""
    (tmp_path / "program").mkdir()
    last = int(run_program(KILLS, tmp_path / "program", options))
    assert last > 10
    gz = ".gz" if "gzip" in options else ""
    for step in range(1, last + 1):
        found = logs(tmp_path / str(step))
        where = f"step {step}: {found}"
        assert found.pop("app.log") == "later\n", where
        assert found.pop(f"app.log.2025-11-25_12{gz}", None) == "before\n", where
        # Counted from the moment of the rollover, which was the victim's or the healthy one's.
        [(name, text)] = found.items()
        assert name == f"app.log.2025-11-25_13{gz}", where
        assert text in ("healthy\nagain\n", "victim\nhealthy\nagain\n"), where
        assert step < last or "victim" in text


SHARED_TIME = """
import mmap, struct
from concurrent_log_handler import ConcurrentTimedRotatingFileHandler

START = 1_764_072_000
shared = mmap.mmap(-1, 8)

def clock():
    return START + struct.unpack("q", shared[:])[0]

class Noting(ConcurrentTimedRotatingFileHandler):
    def finalize_handler_configuration(self):
        self._schedule.clock = clock
    def handleError(self, record):
        raise

def work(child):
    handler = Noting("app.log", "H", utc=True, maxBytes=int(sys.argv[1]), use_gzip=sys.argv[2] == "gz")
    for number in range(300):
        if child == 0 and number % 10 == 0:
            shared[:] = struct.pack("q", number * 180)
        write(handler, str(child), [number])
    handler.close()

os.chdir("logs")
run_children(*[lambda child=child: work(child) for child in range(4)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("packed", ["plain", "gz"])
@pytest.mark.parametrize("max_bytes", [0, 1500])
def test_processes_roll_each_boundary_once(tmp_path: Path, max_bytes: int, packed: str) -> None:
    """Half an hour every ten records: 15 boundaries, which four processes reach at the same time."""
    run_program(SHARED_TIME, tmp_path, max_bytes, packed)
    found = contents(tmp_path / "logs")
    assert found.pop(".__app.lock") == str(START + 15 * HOUR)
    lines = [line for text in found.values() for line in text.splitlines()]
    assert sorted(map(parse, lines)) == [(str(child), number) for child in range(4) for number in range(300)]
    assert all(name.endswith(".gz") for name in found if name != "app.log") == (packed == "gz")
    names = {name.removesuffix(".gz") for name in found} - {"app.log"}
    periods = {name for name in names if name.count(".") == 2}
    # A boundary that came when nobody had written since the last one is not rolled.
    assert periods <= {
        time.strftime("app.log.%Y-%m-%d_%H", time.gmtime(START + hour * HOUR)) for hour in range(15)
    }
    assert names == periods or max_bytes
    assert len(periods) >= 5
    assert "" not in found.values()
    if max_bytes:
        assert all(len(text.encode()) < max_bytes for text in found.values())


# -- what loses the shared time, or the names -------------------------------------------


@pytest.mark.parametrize("spoil", ["empty", "junk", *(["removed"] if os.name != "nt" else [])])
@pytest.mark.parametrize("when", ["H", "MIDNIGHT"])
def test_sidecar_spoiled_again_and_again_keeps_the_boundaries(tmp_path: Path, when: str, spoil: str) -> None:
    """What the process agreed on before still holds; else each loss would put the boundary off."""
    handler = Timed(tmp_path / "app.log", when)
    period = HOUR if when == "H" else 24 * HOUR
    for step in range(8 * 6):
        at(handler, START + step * period / 6, f"{step:02d}")
        if step % 3 == 2:
            lock = tmp_path / ".__app.lock"
            if spoil == "removed":
                lock.unlink(missing_ok=True)
            else:
                lock.write_text("" if spoil == "empty" else "junk")

    assert handler.num_rollovers == (7 if when == "H" else 8)
    assert all(text.count("\n") <= 6 for text in logs(tmp_path).values())
    handler.close()


def test_two_logs_with_one_sidecar_roll_both(tmp_path: Path) -> None:
    """Logs of one name in two directories, and one directory for the lock files."""
    handlers = []
    for name in "ab":
        (tmp_path / name).mkdir()
        handlers.append(Timed(tmp_path / name / "app.log", "H", lock_file_directory=tmp_path / "locks"))

    for step in range(12):
        for handler in handlers:
            at(handler, START + step * HOUR / 2, f"{step:02d}")

    assert [handler.num_rollovers for handler in handlers] == [5, 5]
    for name in "ab":
        assert sorted(logs(tmp_path / name).values()) == [f"{n:02d}\n{n + 1:02d}\n" for n in range(0, 12, 2)]
    for handler in handlers:
        handler.close()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs a second user")
def test_sidecar_that_may_not_be_written_costs_one_rollover_per_boundary_not_one_per_process(
    public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root ran the application once; since then its cron jobs run as somebody else."""
    monkeypatch.chdir("/")
    handler = Timed(public / "app.log", "MIDNIGHT", backupCount=5)
    at(handler, START, "root")
    handler.close()
    (public / "app.log").chmod(0o666)

    def job(number: int) -> None:
        os.setgid(65534)
        os.setuid(65534)
        os.umask(0)
        mine = Recording(public / "app.log", "MIDNIGHT", backupCount=5)
        at(mine, START + 24 * HOUR + number * 60, f"job {number}")
        told = [str(each) for each in mine.failures]
        assert all("cannot be written" in each for each in told), told
        assert bool(told) == (number == 0)

    for number in range(4):
        in_a_fork(partial(job, number))

    assert logs(public) == {"app.log.2025-11-25": "root\n", "app.log": "job 0\njob 1\njob 2\njob 3\n"}


def test_backups_whose_names_show_no_order_go_by_their_time(tmp_path: Path) -> None:
    handler = Timed(tmp_path / "app.log", "MIDNIGHT", backupCount=3)
    handler.suffix = "%d"

    for day in range(9):  # 25 to 30 November, 1 to 3 December
        at(handler, START + day * 24 * HOUR, f"day {day}")

    assert logs(tmp_path) == {
        "app.log.30": "day 5\n",
        "app.log.01": "day 6\n",
        "app.log.02": "day 7\n",
        "app.log": "day 8\n",
    }
    handler.close()


def test_files_that_no_ext_match_finds_do_not_stop_rotation(tmp_path: Path) -> None:
    """A number is found behind thousands of them."""
    handler = Timed(tmp_path / "app.log", "MIDNIGHT", maxBytes=10)
    handler.extMatch = re.compile("matches nothing")
    write(handler, "x" * 8)
    (tmp_path / "app.log.2025-11-25").touch()
    for number in range(1, 1200):
        (tmp_path / f"app.log.2025-11-25.{number}").touch()

    write(handler, "new")

    assert (tmp_path / "app.log.2025-11-25.1200").read_text() == "x" * 8 + "\n"
    handler.close()


def test_number_of_a_backup_that_was_uploaded_and_deleted_is_not_given_again(tmp_path: Path) -> None:
    told: list[str] = []

    def upload(path: str) -> None:
        told.append(os.path.basename(path))
        os.unlink(path)

    handler = Timed(tmp_path / "app.log", "MIDNIGHT", maxBytes=10, on_rotated=upload)
    write(handler, *["x" * 8] * 4)

    assert told == ["app.log.2025-11-25", "app.log.2025-11-25.1", "app.log.2025-11-25.2"]
    handler.close()


@pytest.mark.parametrize("use_gzip", [False, True])
@pytest.mark.parametrize("way", ["namer", "rotation_filename"])
def test_name_that_counts_by_what_lies_on_the_disk_is_taken_as_it_is(
    tmp_path: Path, way: str, use_gzip: bool
) -> None:
    """Whoever numbers his archives himself finds them under his own numbers, also in the middle of a period."""

    def counted(_: str) -> str:
        number = 1
        while list(tmp_path.glob(f"old.{number:03}.log*")):
            number += 1
        return str(tmp_path / f"old.{number:03}.log")

    class Counting(Timed):
        def rotation_filename(self, default_name: str) -> str:
            return counted(default_name)

    if way == "namer":
        handler = Timed(tmp_path / "app.log", "MIDNIGHT", maxBytes=10, use_gzip=use_gzip)
        handler.namer = counted
    else:
        handler = Counting(tmp_path / "app.log", "MIDNIGHT", maxBytes=10, use_gzip=use_gzip)
    write(handler, *[f"record {number}" for number in range(3)])
    at(handler, START + DAY, "record 3", "record 4")
    handler.close()

    gz = ".gz" if use_gzip else ""
    assert logs(tmp_path) == {
        "app.log": "record 4\n",
        **{f"old.{number + 1:03}.log{gz}": f"record {number}\n" for number in range(4)},
    }


def test_namer_with_a_directory_for_each_month(tmp_path: Path) -> None:
    """Its backups are compressed and told of; how many stay is then up to the user."""
    told: list[str] = []

    def by_month(name: str) -> str:
        return os.path.join(os.path.dirname(name), name.rpartition(".")[2][:7], os.path.basename(name))

    def move(source: str, target: str) -> None:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.rename(source, target)

    handler = Timed(
        tmp_path / "app.log", "MIDNIGHT", max_total_bytes=1, use_gzip=True, on_rotated=told.append
    )
    handler.namer, handler.rotator = by_month, move
    for day in range(3):
        at(handler, START + day * 24 * HOUR, f"day {day}")

    assert [Path(path).relative_to(tmp_path).as_posix() for path in told] == [
        "2025-11/app.log.2025-11-25.gz",
        "2025-11/app.log.2025-11-26.gz",
    ]
    assert set(logs(tmp_path)) == {"app.log", *(Path(path).relative_to(tmp_path).as_posix() for path in told)}
    handler.close()


def test_directory_that_may_be_written_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = Timed(tmp_path / "app.log", "H", backupCount=2)
    write(handler, "a")

    def refuse(path: str) -> list[str]:
        raise PermissionError(13, "not to be read", path)

    with monkeypatch.context() as unreadable:
        unreadable.setattr(os, "listdir", refuse)
        at(handler, START + HOUR, "b")

    assert logs(tmp_path) == {"app.log.2025-11-25_12": "a\n", "app.log": "b\n"}
    handler.close()


@pytest.mark.skipif(os.name == "nt", reason="portalocker cannot lock that late there")
@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["%Y-%m-%d_%H-%M-%S", "%Y%m%d-%H%M%S"])
def test_object_that_logs_while_the_interpreter_ends_may_cause_a_rollover(
    tmp_path: Path, suffix: str
) -> None:
    """Nothing can be imported any more then, and Python 3.13.0 crashes where `datetime` is used."""
    source = """
        from concurrent_log_handler import ConcurrentTimedRotatingFileHandler
        handler = ConcurrentTimedRotatingFileHandler("logs/app.log", when="S", backupCount=5)
        handler.suffix = sys.argv[1]
        log = logging.getLogger("end")
        log.addHandler(handler)

        class Session:
            def __init__(self):
                self.log, self.myself = log, self

            def __del__(self):
                self.log.error("unclosed")

        log.error("start")
        session = Session()
        time.sleep(1.1)
        """
    old = [time.strftime(suffix, time.gmtime(START + second)) for second in range(5)]
    (tmp_path / "logs").mkdir()
    for text in old:
        (tmp_path / "logs" / f"app.log.{text}").touch()

    run_program(source, tmp_path, suffix)

    logs = {name: text for name, text in contents(tmp_path / "logs").items() if name.startswith("app.log")}
    (rolled,) = set(logs) - {"app.log", *(f"app.log.{text}" for text in old)}
    assert (logs[rolled], logs["app.log"]) == ("start\n", "unclosed\n")
    assert f"app.log.{old[0]}" not in logs
