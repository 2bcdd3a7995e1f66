"""Every constructor argument: what is accepted, and errors that say what was asked and what is accepted."""

from __future__ import annotations

import math
import os
import pickle
import re
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concurrent_log_handler import (
    ConcurrentRotatingFileHandler,
    ConcurrentTimedRotatingFileHandler,
    _options,
)

posix = pytest.mark.skipif(os.name == "nt", reason="no owners there")


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        (0, 0),
        (10, 10),
        (10.9, 10),
        ("10485760", 10485760),
        (" 17 ", 17),
        ("0", 0),
        ("10 MB", 10_000_000),
        ("10MB", 10_000_000),
        ("10 mb", 10_000_000),
        ("512 KiB", 524_288),
        ("1.5 kB", 1500),
        ("1.5 MiB", 1_572_864),
        ("2 GB", 2_000_000_000),
        ("1 GiB", 2**30),
        ("1 TB", 10**12),
        ("100 B", 100),
        ("9007199254740993", 9007199254740993),  # more than a float can hold
    ],
)
def test_size(asked: Any, size: int) -> None:
    result = _options.size(asked, "maxBytes")

    assert result == size
    assert type(result) is int


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (-1, ValueError),
        (-0.5, ValueError),
        ("-1", ValueError),
        ("", ValueError),
        ("ten", ValueError),
        ("10 XB", ValueError),
        ("10 M", ValueError),  # mega, or mebi?
        ("10 iB", ValueError),
        ("1e6", ValueError),
        ("1_000", ValueError),
        ("10 MB MB", ValueError),
        ("٣", ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        (True, TypeError),
        (None, TypeError),
        ([], TypeError),
        (b"10", TypeError),
        (1j, TypeError),
    ],
)
def test_size_that_is_none(asked: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        _options.size(asked, "maxBytes")

    assert str(raised.value) == (
        f"maxBytes must be a number of bytes, 0 or more, or text such as '10 MB' or '512 KiB', got {asked!r}"
    )


@given(st.integers(0, 10**15))
def test_size_reads_what_it_would_print(number: int) -> None:
    assert _options.size(str(number), "maxBytes") == _options.size(number, "maxBytes") == number


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        *[(-1, ValueError), (1.5, TypeError), (True, TypeError), (None, TypeError), (b"3", TypeError)],
        *[(text, ValueError) for text in ("", "-1", "1.5", "1_000", "many", "٣", "3 MB", "9" * 5_000)],
    ],
)
def test_count_that_is_none(asked: Any, error: type[Exception]) -> None:
    with pytest.raises(
        error, match=re.escape(f"backupCount must be a whole number, 0 or more, got {asked!r}")
    ):
        _options.count(asked, "backupCount")


@pytest.mark.parametrize("text", ["20", " 20\n", "0020"])
def test_count_as_text_is_taken_as_a_size_is(text: str) -> None:
    """From an environment variable or an ini file."""
    assert _options.count(text, "backupCount") == _options.size(text, "maxBytes") == 20


@pytest.mark.parametrize("kind", [ConcurrentRotatingFileHandler, ConcurrentTimedRotatingFileHandler])
def test_limits_as_text(tmp_path: Path, kind: Any) -> None:
    handler = kind(tmp_path / "app.log", maxBytes="300", backupCount="20")
    assert (handler.maxBytes, handler.backupCount) == (300, 20)
    copy = pickle.loads(pickle.dumps(handler))
    assert (copy.maxBytes, copy.backupCount) == (300, 20)

    handler.maxBytes, handler.backupCount = "400", "0"
    assert (handler.maxBytes, handler.backupCount) == (400, 0)


def test_count_takes_what_is_an_integer() -> None:
    class Five:
        def __index__(self) -> int:
            return 5

    assert _options.count(Five(), "backupCount") == 5


@pytest.mark.parametrize(
    ("asked", "mode"),
    [("a", "a"), ("w", "w"), ("x", "x"), ("at", "a"), ("a+", "a"), ("wt", "w"), ("w+", "w")],
)
def test_mode(asked: str, mode: str) -> None:
    assert _options.mode(asked) == mode


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ("r", ValueError),
        ("ab", ValueError),
        ("", ValueError),
        ("aw", ValueError),
        (0, TypeError),
        (None, TypeError),
    ],
)
def test_mode_that_is_none(asked: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=re.escape(f"mode must be 'a', 'w' or 'x', got {asked!r}")):
        _options.mode(asked)


@pytest.mark.parametrize("asked", ["no-such-encoding", "", "hex", "rot13", "base64", "utf-8\0"])
def test_encoding_that_is_none(asked: str) -> None:
    with pytest.raises(
        ValueError,
        match=re.escape(f"encoding must be the name of a text encoding such as 'utf-8', got {asked!r}"),
    ):
        _options.encoding(asked)


def test_encoding_of_another_type() -> None:
    with pytest.raises(
        TypeError, match="encoding must be the name of a text encoding such as 'utf-8', got 8"
    ):
        _options.encoding(8)  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", ["utf-8", "latin-1", "UTF8", "cp1252", "utf-16", "idna", "punycode"])
def test_encoding(asked: str) -> None:
    assert _options.encoding(asked) == asked


def test_encoding_of_the_locale() -> None:
    """What `open()` would take; under UTF-8 mode that is UTF-8 whatever the locale says."""
    with open(os.devnull) as file:
        assert _options.encoding(None).lower().replace("-", "") == file.encoding.lower().replace("-", "")


@pytest.mark.parametrize(
    ("errors", "policy", "result"),
    [
        (None, None, "backslashreplace"),
        ("strict", None, "strict"),
        (None, "replace", "replace"),
        ("ignore", "replace", "ignore"),
    ],
)
def test_errors(errors: str | None, policy: str | None, result: str) -> None:
    assert _options.errors(errors, policy) == result


@pytest.mark.parametrize(
    ("errors", "policy", "error", "said"),
    [
        (
            "loose",
            None,
            ValueError,
            "errors must name an error handler such as 'backslashreplace', 'replace' or 'strict', got 'loose'",
        ),
        (None, "loose", ValueError, "unicode_error_policy must name an error handler such as"),
        (3, None, TypeError, "errors must name an error handler such as"),
    ],
)
def test_errors_that_are_none(errors: Any, policy: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=re.escape(said)):
        _options.errors(errors, policy)


@pytest.mark.parametrize(
    ("asked", "result"), [(None, os.linesep), ("", "\n"), ("\n", "\n"), ("\r", "\r"), ("\r\n", "\r\n")]
)
def test_newline(asked: str | None, result: str) -> None:
    assert _options.newline(asked) == result


@pytest.mark.parametrize(
    ("asked", "error"), [("\n\r", ValueError), ("x", ValueError), (10, TypeError), (b"\n", TypeError)]
)
def test_newline_that_is_none(asked: Any, error: type[Exception]) -> None:
    with pytest.raises(
        error, match=re.escape(f"newline must be None, '', '\\n', '\\r' or '\\r\\n', got {asked!r}")
    ):
        _options.newline(asked)


def test_terminator() -> None:
    assert _options.terminator("") == ""
    assert _options.terminator("\0") == "\0"
    assert _options.terminator(None) == "\n"  # CLH's default
    with pytest.raises(TypeError, match=re.escape("terminator must be text such as '\\n', got b'\\n'")):
        _options.terminator(b"\n")


@pytest.mark.parametrize(
    ("asked", "result"),
    [
        (None, None),
        (0o640, 0o640),
        ("0640", 0o640),
        ("640", 0o640),
        ("0o640", 0o640),
        (0, 0),
        (0o7777, 0o7777),
        (0o2660, 0o2660),
        ("1644", 0o1644),
    ],
)
def test_bits(asked: Any, result: int | None) -> None:
    assert _options.bits(asked, "chmod") == result


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (-1, ValueError),
        (0o10000, ValueError),
        (640, ValueError),
        ("rw-r--r--", ValueError),
        ("0888", ValueError),
        (6.4, TypeError),
        (True, TypeError),
    ],
)
def test_bits_that_are_none(asked: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="chmod must be permission bits such as 0o640, from 0 to 0o7777, got"):
        _options.bits(asked, "chmod")


@posix
@pytest.mark.parametrize(
    ("asked", "result"),
    [
        (None, (-1, -1)),
        (("root", "root"), (0, 0)),
        (["root", None], (0, -1)),
        ((None, "root"), (-1, 0)),
        ((12345, 54321), (12345, 54321)),
    ],
)
def test_owner(asked: Any, result: tuple[int, int]) -> None:
    assert _options.owner(asked) == result


@posix
@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        (("nobody-of-that-name", "root"), ValueError, "is unknown on this machine"),
        (("root", "no-group-of-that-name"), ValueError, "is unknown on this machine"),
        ("root:root", TypeError, "owner must be a pair (user, group) of names or numbers, got 'root:root'"),
        (("root",), ValueError, "owner must be a pair"),
        (("root", "root", "root"), ValueError, "owner must be a pair"),
        ((1.5, 0), TypeError, "owner must be a pair"),
        (5, TypeError, "owner must be a pair"),
        ((-2, 0), ValueError, "owner must be"),
    ],
)
def test_owner_that_is_none(asked: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=re.escape(said)):
        _options.owner(asked)


@pytest.mark.parametrize(
    ("asked", "result"), [(None, None), (0, 0.0), (5, 5.0), (0.25, 0.25), (math.inf, None)]
)
def test_seconds(asked: Any, result: float | None) -> None:
    assert _options.seconds(asked, "lock_timeout") == result


@pytest.mark.parametrize(
    ("asked", "error"),
    [(-1, ValueError), (math.nan, ValueError), ("5", TypeError), (True, TypeError), ([], TypeError)],
)
def test_seconds_that_are_none(asked: Any, error: type[Exception]) -> None:
    with pytest.raises(
        error, match=re.escape(f"lock_timeout must be seconds, 0 or more, or None, got {asked!r}")
    ):
        _options.seconds(asked, "lock_timeout")


@pytest.mark.parametrize(
    "check", [_options.mode, _options.encoding, _options.newline, _options.terminator, _options.owner]
)
def test_errors_chain_no_inner_cause(check: Callable[[Any], object]) -> None:
    """The traceback that a user sees ends in our line, not in how we found out."""
    with pytest.raises((TypeError, ValueError)) as raised:
        check(3.5)

    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None or raised.value.__suppress_context__
    assert sys.exc_info() == (None, None, None)


@pytest.mark.parametrize("name", ["use_gzip", "background_gzip", "keep_file_open", "delay", "debug"])
def test_flag_given_as_text(name: str, tmp_path: Path) -> None:
    """From an environment variable or an ini file, where "no" would count as true."""
    options: Any = {name: "no"}
    with pytest.raises(TypeError, match=f"{name} must be True or False, got 'no'"):
        ConcurrentRotatingFileHandler(tmp_path / "app.log", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("asked", ["9" * 400 + ".5", "9" * 5000])
def test_size_with_more_digits_than_a_number_may_have(asked: str) -> None:
    if asked.isdigit() and sys.version_info < (3, 11):
        pytest.skip("any number of digits was accepted")
    with pytest.raises(ValueError, match="maxBytes must be a number of bytes"):
        _options.size(asked, "maxBytes")


@posix
def test_owner_that_no_system_has() -> None:
    with pytest.raises(ValueError, match="there is no user or group 1099511627776"):
        _options.owner((2**40, 0))


def test_decimal_slip_is_named() -> None:
    with pytest.raises(ValueError, match="got 640, which is 0o1200; did you mean 0o640"):
        _options.bits(640, "chmod")
