"""The quick way gives the text that the formatter itself gives, character by character."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concurrent_log_handler._record import _format
from concurrent_log_handler._record._format import QuickFormat
from handler_support import a_record
from process_helpers import run_program


def both(formatter: Optional[logging.Formatter], *records: logging.LogRecord) -> None:
    """Compare text and what is left in the record; one QuickFormat for all, as a handler has it."""
    quick = QuickFormat()
    for record in records:
        reference = logging.makeLogRecord(dict(record.__dict__))
        expected = (formatter or logging.Formatter()).format(reference)

        assert quick.text(formatter, record) == expected
        assert record.__dict__ == reference.__dict__, "other handlers see these attributes"


def moments() -> list[logging.LogRecord]:
    """Around the turn of a second, back and forth in time, far away."""
    times = [
        0.0,
        1.0,
        1e9,
        1e9 + 0.0004,
        1e9 + 0.9994,
        1e9 + 0.9999,
        1e9 + 1,
        1e9 - 0.001,
        1e9 + 3600,
        1.5,
        2**31 + 0.5,
    ]
    return [
        a_record("at %s", moment, created=moment, msecs=(moment - int(moment)) * 1000) for moment in times
    ]


PERCENT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"


@pytest.mark.parametrize(
    "formatter",
    [
        None,
        logging.Formatter(),
        logging.Formatter(PERCENT),
        logging.Formatter("{asctime} {levelname:>8} {message!r} {lineno:05d}", style="{"),
        logging.Formatter("$asctime ${levelname} $message $$", style="$"),
        logging.Formatter("%(message)s"),
        logging.Formatter("%%(name)s%%(message)s %(name)s %% %%%(message)s"),
        logging.Formatter("%%%%(name)s %(levelname)s %(message)s %%"),
        logging.Formatter("%(lineno)ld %(message)5.2s %(name)+5s %(created)015.3f"),
        logging.Formatter(
            "%(name)s %(name)s {braces} \"quotes\" 'and' \\backslashes\n%(message)r", validate=False
        ),
        logging.Formatter("%(message)s %(args)s %(exc_info)s"),
        logging.Formatter(
            "%(levelname)-8s|%(msecs)03d|%(process)d|%(threadName)s|%(pathname)s|%(message).3s"
        ),
        logging.Formatter(PERCENT, "%H:%M:%S"),
        logging.Formatter(PERCENT, "%d.%m.%Y %%"),
        logging.Formatter(PERCENT, ""),
        logging.Formatter("no field at all", validate=False),
        logging.Formatter("{message}", "%Y", style="{"),
    ],
    ids=lambda formatter: getattr(formatter, "_fmt", "none"),
)
def test_every_style(formatter: Optional[logging.Formatter]) -> None:
    both(formatter, *moments())


def test_utc() -> None:
    formatter = logging.Formatter(PERCENT)
    formatter.converter = time.gmtime  # type: ignore[assignment]

    both(formatter, *moments())


CHANGES = {
    "converter": lambda moment: time.gmtime(0),
    "datefmt": "%H",
    "default_time_format": "%H",
    "default_msec_format": "%s!%d",
    "formatTime": lambda record, datefmt=None: "noon",
    "format": lambda record: "all new",
}


@pytest.mark.parametrize("attribute", CHANGES)
@pytest.mark.parametrize("of_the_class", [False, True])
def test_formatter_changed_after_its_first_record(attribute: str, of_the_class: bool) -> None:
    """The date of a second is kept, so the change is seen with the next second at the latest."""

    class Own(logging.Formatter):
        pass

    formatter = Own(PERCENT)
    quick = QuickFormat()
    quick.text(formatter, a_record("a", created=1e9))

    if of_the_class:
        change: Any = CHANGES[attribute]
        setattr(Own, attribute, staticmethod(change) if callable(change) else change)
    else:
        setattr(formatter, attribute, CHANGES[attribute])
    record = a_record("b", created=1e9 + 1)

    assert quick.text(formatter, record) == formatter.format(record)


@pytest.mark.parametrize("default", [None, "", "%s.%03d", "%s;%03dms"])
def test_default_msec_format(default: Optional[str]) -> None:
    class Own(logging.Formatter):
        default_msec_format = default  # type: ignore[assignment]

    if default == "" and sys.version_info < (3, 9):
        pytest.skip("an error there")
    both(Own(PERCENT), *moments())


def test_default_time_format() -> None:
    class Own(logging.Formatter):
        default_time_format = "%Y%m%dT%H%M%S"

    both(Own(PERCENT), *moments())


@pytest.mark.skipif(sys.version_info < (3, 10), reason="defaults came with Python 3.10")
@pytest.mark.parametrize(
    ("fmt", "style"), [("%(where)s %(message)s", "%"), ("{where} {message}", "{"), ("$where $message", "$")]
)
def test_defaults(fmt: str, style: Any) -> None:
    formatter = logging.Formatter(fmt, style=style, defaults={"where": "here"})

    both(formatter, a_record("a"), a_record("b", where="there"), a_record("c"))


def test_overridden_methods_are_called() -> None:
    class Format(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return "<" + super().format(record) + ">"

    class FormatTime(logging.Formatter):
        def formatTime(self, record: logging.LogRecord, datefmt: Optional[str] = None) -> str:
            return "noon"

    class FormatMessage(logging.Formatter):
        def formatMessage(self, record: logging.LogRecord) -> str:
            return super().formatMessage(record).upper()

    class UsesTime(logging.Formatter):
        def usesTime(self) -> bool:
            return True

    for kind in (Format, FormatTime, FormatMessage, UsesTime):
        both(kind(PERCENT), *moments())


def test_method_set_on_the_formatter_is_called() -> None:
    formatter = logging.Formatter(PERCENT)
    formatter.formatTime = lambda record, datefmt=None: "noon"  # type: ignore[method-assign]

    both(formatter, *moments())


def test_style_of_its_own() -> None:
    class Doubling(logging.PercentStyle):
        def _format(self, record: logging.LogRecord) -> str:
            return super()._format(record) * 2

        format = _format  # type: ignore[assignment]

    formatter = logging.Formatter(PERCENT)
    formatter._style = Doubling(PERCENT)

    both(formatter, *moments())


def test_formatter_that_is_no_formatter() -> None:
    class Duck:
        def format(self, record: logging.LogRecord) -> str:
            return f"quack {record.getMessage()}"

    assert QuickFormat().text(Duck(), a_record("x")) == "quack x"  # type: ignore[arg-type]


def test_formatters_in_turn() -> None:
    """Two threads, or one that changes formatters: the date of one must not reach the other."""
    quick = QuickFormat()
    formatters = [logging.Formatter(PERCENT), logging.Formatter(PERCENT, "%H"), None]
    for round_ in range(6):
        formatter = formatters[round_ % 3]
        record = a_record("x", created=1e9 + round_ / 10)
        assert quick.text(formatter, record) == (formatter or logging.Formatter()).format(record)


def test_traceback_and_stack() -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        with_traceback = a_record("failed")
        with_traceback.exc_info = sys.exc_info()
    cached = a_record("again")
    cached.exc_text = "Traceback (kept)"
    stack = a_record("here")
    stack.stack_info = "Stack (most recent call last):\n  somewhere"

    both(logging.Formatter(PERCENT), with_traceback, cached, stack, a_record("plain"))


@pytest.mark.parametrize(
    ("fmt", "style"), [("%(missing)s", "%"), ("{missing}", "{"), ("$missing", "$"), ("%(message)d", "%")]
)
def test_field_that_no_record_has(fmt: str, style: Any) -> None:
    """The same error as the standard library's, for whoever reads it on stderr."""
    formatter = logging.Formatter(fmt, style=style, validate=False)
    with pytest.raises(Exception) as theirs:
        formatter.format(a_record("x"))

    with pytest.raises(type(theirs.value), match=re.escape(str(theirs.value))):
        QuickFormat().text(formatter, a_record("x"))


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(TypeError, match="not all arguments converted"):
        QuickFormat().text(None, a_record("no field", 1))


@settings(max_examples=200)
@given(
    created=st.lists(st.floats(0, 4e9), min_size=1, max_size=8),
    style=st.sampled_from("%{$"),
    fields=st.lists(
        st.sampled_from(["asctime", "message", "name", "levelname", "msecs", "lineno"]), max_size=5
    ),
    datefmt=st.sampled_from([None, "%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%j"]),
    utc=st.booleans(),
    text=st.text(max_size=10),
)
def test_any_format_and_any_times(
    created: list[float], style: Any, fields: list[str], datefmt: Optional[str], utc: bool, text: str
) -> None:
    pattern = {"%": "%({})s", "{": "{{{}}}", "$": "${{{}}}"}[style]
    formatter = logging.Formatter(
        "|".join(map(pattern.format, fields)) or "-", datefmt, style=style, validate=False
    )
    if utc:
        formatter.converter = time.gmtime  # type: ignore[assignment]

    both(
        formatter,
        *(
            a_record("%s", text, created=moment, msecs=(moment - int(moment)) * 1000 + 0.0)
            for moment in created
        ),
    )


@pytest.mark.parametrize("name", ["format", "formatTime", "formatMessage"])
@pytest.mark.parametrize("fmt", ["%(asctime)s %(message)s", "%(levelname)s %(message)s"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_method_patched_for_the_whole_of_logging(
    name: str, fmt: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A known recipe for ISO time stamps assigns to `logging.Formatter.formatTime`."""
    quick, formatter = QuickFormat(), logging.Formatter(fmt)
    record = logging.makeLogRecord({"msg": "text", "levelname": "INFO", "created": 1e9, "msecs": 0.0})
    if when == "after":
        quick.text(formatter, record)
        record.created += 1
    monkeypatch.setattr(logging.Formatter, name, lambda *_: "patched")

    assert quick.text(formatter, record) == formatter.format(record)
    assert ("patched" in formatter.format(record)) == (name != "formatTime" or "asctime" in fmt)


@pytest.mark.parametrize("created", ["2024-01-01T00:00:00", None])
def test_record_whose_time_is_no_number(created: Any) -> None:
    """From a dictionary that somebody has sent; only a format with the time needs one."""
    record = logging.makeLogRecord({"msg": "text", "created": created})
    formatter = logging.Formatter("%(message)s")

    assert QuickFormat().text(formatter, record) == formatter.format(record) == "text"


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("before", [0, 2])
def test_process_that_logs_on_its_way_out_still_dies_of_the_interrupt(tmp_path: Path, before: int) -> None:
    """Its parent, a shell say, must see that; Python forgets it where eval() meets a text."""
    source = """
        import atexit
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        log = logging.getLogger("interrupted")
        handler = ConcurrentRotatingFileHandler("logs/app.log")
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        log.addHandler(handler)
        for number in range(int(sys.argv[1])):
            record = a_record(f"before {number}")
            record.created += number
            handler.handle(record)
        atexit.register(log.warning, "at exit")
        signal.raise_signal(signal.SIGINT)
        """

    run_program(source, tmp_path, before, quiet=False, status=-signal.SIGINT)

    lines = [f"INFO before {number}\n" for number in range(before)]
    assert (tmp_path / "logs" / "app.log").read_text() == "".join(lines) + "WARNING at exit\n"


def test_format_is_compiled_once_and_not_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    real = compile

    def noting(source: str, *rest: Any) -> Any:
        compiled.append(source)
        return real(source, *rest)

    monkeypatch.setattr(_format, "compile", noting, raising=False)
    for _ in range(3):
        quick, formatter = QuickFormat(), logging.Formatter("compiled once: %(message)s")
        for second in range(5):
            record = a_record("text", created=1e9 + second)
            assert quick.text(formatter, record) == "compiled once: text"

    assert len(compiled) == 1
