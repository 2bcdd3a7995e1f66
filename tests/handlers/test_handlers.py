"""The handler as its users see it: construction, the standard library's interface, names of files, text."""

from __future__ import annotations

import collections
import contextlib
import copy
import faulthandler
import gc
import inspect
import io
import logging
import logging.config
import logging.handlers
import os
import pickle
import queue
import shutil
import signal
import stat
import sys
import threading
import warnings
from gzip import GzipFile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest

import concurrent_log_handler
from concurrent_log_handler import ConcurrentRotatingFileHandler
from concurrent_log_handler._record import _livefile
from handler_support import (
    SECONDS,
    Recording,
    Strict,
    a_record,
    contents,
    files_at_most,
    in_a_fork,
    open_paths,
    run_program,
    write,
)

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
posix = pytest.mark.skipif(os.name == "nt", reason="not on Windows")


# -- construction -------------------------------------------------------------


def test_positional_arguments_are_the_standard_librarys() -> None:
    def positional(of: type) -> list[str]:
        parameters = inspect.signature(of).parameters.values()
        return [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]

    assert positional(ConcurrentRotatingFileHandler) == positional(logging.handlers.RotatingFileHandler)


def test_keywords_and_their_defaults() -> None:
    parameters = inspect.signature(ConcurrentRotatingFileHandler).parameters.values()

    assert {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY} == {
        "use_gzip": False,
        "background_gzip": False,
        "owner": None,
        "chmod": None,
        "umask": None,
        "newline": None,
        "terminator": "\n",
        "unicode_error_policy": None,
        "lock_file_directory": None,
        "keep_file_open": True,
        "lock_timeout": 5.0,
        "debug": False,
        "max_total_bytes": None,
        "max_age": None,
        "on_rotated": None,
        "header": None,
        "fsync": False,
        "shared_between_machines": None,
    }


def test_defaults_of_the_standard_librarys_arguments() -> None:
    """All the same but `delay`: None creates the file with the first record, as CLH does."""
    ours = inspect.signature(ConcurrentRotatingFileHandler).parameters
    theirs = inspect.signature(logging.handlers.RotatingFileHandler).parameters

    assert {name: ours[name].default for name in theirs} == {
        **{name: each.default for name, each in theirs.items()},
        "delay": None,
    }


def handlers_alive() -> list[logging.Handler]:
    """What `logging.shutdown()` will close; it is held meanwhile, so that none of it goes."""
    found = (reference() for reference in logging._handlerList)  # type: ignore[attr-defined]
    return [handler for handler in found if handler is not None]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"maxBytes": -1}, ValueError),
        ({"maxBytes": "ten"}, ValueError),
        ({"maxBytes": None}, TypeError),
        ({"backupCount": -1}, ValueError),
        ({"backupCount": "three"}, ValueError),
        ({"mode": "r"}, ValueError),
        ({"mode": "r", "maxBytes": 10, "backupCount": 1}, ValueError),
        ({"mode": 1}, TypeError),
        ({"encoding": "no-such"}, ValueError),
        ({"errors": "loose"}, ValueError),
        ({"unicode_error_policy": "loose"}, ValueError),
        ({"newline": "x"}, ValueError),
        ({"terminator": b"\n"}, TypeError),
        ({"lock_timeout": -1}, ValueError),
        ({"lock_timeout": "5"}, TypeError),
        pytest.param({"chmod": 0o10000}, ValueError, marks=posix),
        pytest.param({"umask": "x"}, ValueError, marks=posix),
        pytest.param({"owner": ("no-such-user", None)}, ValueError, marks=posix),
        pytest.param({"owner": "root"}, TypeError, marks=posix),
        ({"delya": True}, TypeError),
    ],
)
def test_bad_value_is_refused_at_construction_and_leaves_nothing(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception]
) -> None:
    """Neither a file nor a half-made handler that `logging.shutdown()` would trip over."""
    before = handlers_alive()

    with pytest.raises(error) as raised:
        ConcurrentRotatingFileHandler(tmp_path / "app.log", **arguments)

    (name,) = list(arguments)[:1]
    assert name in str(raised.value)
    assert contents(tmp_path) == {}
    assert handlers_alive() == before


def test_missing_directory_is_an_error_at_construction(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        ConcurrentRotatingFileHandler(tmp_path / "missing" / "app.log")

    assert raised.value.filename == str(tmp_path / "missing")
    assert contents(tmp_path) == {}


def test_directory_as_log_is_an_error_at_construction(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        ConcurrentRotatingFileHandler(tmp_path)


def test_max_bytes_without_backups_warns_and_never_rotates(tmp_path: Path) -> None:
    """CPython lets such a file grow; CLH truncates it, which destroys what it logged."""
    with pytest.warns(UserWarning, match="maxBytes without backupCount: the log is never rotated") as seen:
        handler = Strict(tmp_path / "app.log", maxBytes=5)
    write(handler, "aaaa", "bbbb", "cccc")
    handler.doRollover()

    assert seen[0].filename == __file__
    assert contents(tmp_path) == {"app.log": "aaaa\nbbbb\ncccc\n"}


@pytest.mark.parametrize("delay", [None, True])
def test_file_is_created_with_the_first_record(tmp_path: Path, delay: Optional[bool]) -> None:
    handler = Strict(tmp_path / "app.log", delay=delay)
    assert contents(tmp_path) == {}
    assert handler.stream is None

    write(handler, "first")

    assert contents(tmp_path) == {"app.log": "first\n"}


def test_file_is_created_at_construction(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", delay=False)

    assert contents(tmp_path) == {"app.log": ""}
    assert handler.stream is not None


def test_mode_w_empties_the_file_once(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text("old\n")
    handler = Strict(tmp_path / "app.log", mode="w")

    write(handler, "one")
    handler.close()
    write(handler, "two")
    os.rename(tmp_path / "app.log", tmp_path / "moved")
    write(handler, "three")
    os.rename(tmp_path / "app.log", tmp_path / "three")
    os.rename(tmp_path / "moved", tmp_path / "app.log")
    write(handler, "four")

    assert contents(tmp_path) == {"app.log": "one\ntwo\nfour\n", "three": "three\n"}


def test_mode_w_empties_at_construction_without_delay(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text("old\n")

    Strict(tmp_path / "app.log", mode="w", delay=False)

    assert contents(tmp_path) == {"app.log": ""}


def test_mode_w_appends_where_max_bytes_is_set(tmp_path: Path) -> None:
    """The standard library's rule: a log that rotates must not lose what it has."""
    (tmp_path / "app.log").write_text("old\n")

    write(Strict(tmp_path / "app.log", mode="w", maxBytes=1000, backupCount=1), "new")

    assert contents(tmp_path) == {"app.log": "old\nnew\n"}


def test_mode_w_keeps_what_a_pickled_copy_wrote(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text("old\n")
    handler = Strict(tmp_path / "app.log", mode="w")
    write(handler, "one")

    write(pickle.loads(pickle.dumps(handler)), "two")
    write(handler, "three")

    assert contents(tmp_path) == {"app.log": "one\ntwo\nthree\n"}


def test_mode_w_keeps_what_a_copy_of_an_unused_handler_wrote(tmp_path: Path) -> None:
    """A worker may log before the process that set logging up does."""
    (tmp_path / "app.log").write_text("old\n")
    handler = Strict(tmp_path / "app.log", mode="w")

    write(pickle.loads(pickle.dumps(handler)), "copy")
    write(handler, "original")

    assert contents(tmp_path)["app.log"].endswith("copy\noriginal\n")


@posix
def test_mode_w_keeps_what_a_forked_child_of_an_unused_handler_wrote(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text("old\n")
    handler = Strict(tmp_path / "app.log", mode="w")

    in_a_fork(lambda: write(handler, "child"))
    write(handler, "parent")

    assert contents(tmp_path)["app.log"].endswith("child\nparent\n")


@posix
def test_mode_w_of_a_used_handler_does_not_empty_again_in_a_child(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", mode="w")
    write(handler, "one")

    in_a_fork(lambda: write(handler, "child"))
    write(handler, "two")

    assert contents(tmp_path) == {"app.log": "one\nchild\ntwo\n"}


def test_mode_x_wants_a_new_file(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", mode="x")
    write(handler, "one")
    handler.close()
    write(handler, "two")

    with pytest.raises(FileExistsError):
        Strict(tmp_path / "app.log", mode="x")

    assert contents(tmp_path) == {"app.log": "one\ntwo\n"}


def test_limits_set_after_construction(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log")
    write(handler, "aaaa", "bbbb")

    handler.backupCount = 1
    handler.maxBytes = "10"  # type: ignore[assignment]
    write(handler, "cccc", "dddd")
    handler.backupCount = 2
    write(handler, "eeee")
    handler.maxBytes = 0
    write(handler, "ffff", "gggg")

    assert handler.maxBytes == 0
    assert contents(tmp_path) == {
        "app.log": "eeee\nffff\ngggg\n",
        "app.log.1": "dddd\n",
        "app.log.2": "cccc\n",
    }


def test_bad_limit_set_after_construction_is_refused(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=100, backupCount=1)

    with pytest.raises(ValueError, match="maxBytes must be"):
        handler.maxBytes = -1
    with pytest.raises(ValueError, match="backupCount must be"):
        handler.backupCount = -1

    assert (handler.maxBytes, handler.backupCount) == (100, 1)


@pytest.mark.parametrize("theirs", ["RotatingFileHandler", "TimedRotatingFileHandler"])
@pytest.mark.parametrize("ours", ["ConcurrentRotatingFileHandler", "ConcurrentTimedRotatingFileHandler"])
def test_class_that_names_the_standard_librarys_too_keeps_its_limits(
    tmp_path: Path, ours: str, theirs: str
) -> None:
    """For `isinstance` checks of some framework; the other constructor must not set limits, or open the file."""
    kind = getattr(concurrent_log_handler, ours)
    both = type("Both", (kind, getattr(logging.handlers, theirs)), {})

    handler = both(tmp_path / "app.log", maxBytes=10, backupCount=3)
    assert (handler.maxBytes, handler.backupCount) == (10, 3)
    assert contents(tmp_path) == {}
    for text in ("aaaa", "bbbb", "cccc"):
        handler.handle(a_record(text))
    handler.close()

    assert isinstance(handler, getattr(logging.handlers, theirs))
    backups = [text for name, text in contents(tmp_path).items() if name.startswith("app.log.")]
    assert sorted(backups) == ["aaaa\n", "bbbb\n"]


# -- rotation -----------------------------------------------------------------


def test_record_that_would_reach_max_bytes_opens_a_new_file(tmp_path: Path) -> None:
    """Rotation comes before the write, as in CPython: only one long record can pass the limit."""
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=1)

    write(handler, "aaaa", "bbbb")

    assert contents(tmp_path) == {"app.log": "bbbb\n", "app.log.1": "aaaa\n"}


def test_record_longer_than_max_bytes_stands_alone(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=3)

    write(handler, "a" * 50, "b", "c" * 50)

    assert contents(tmp_path) == {
        "app.log": "c" * 50 + "\n",
        "app.log.1": "b\n",
        "app.log.2": "a" * 50 + "\n",
    }


def test_empty_file_never_rotates(tmp_path: Path) -> None:
    """gh-116263: an empty backup helps nobody."""
    (tmp_path / "app.log").touch()

    write(Strict(tmp_path / "app.log", maxBytes=10, backupCount=3), "a" * 50)

    assert contents(tmp_path) == {"app.log": "a" * 50 + "\n"}


def test_limit_counts_bytes_not_characters(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=20, backupCount=9, encoding="utf-8")

    write(handler, *["\N{EURO SIGN}" * 4] * 4)

    assert contents(tmp_path) == {
        "app.log" + suffix: "\N{EURO SIGN}" * 4 + "\n" for suffix in ("", ".1", ".2", ".3")
    }


def test_limit_counts_the_line_ends_that_are_written(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=12, backupCount=9, newline="\r\n")

    write(handler, "aaaa", "bbbb", "cccc")

    written = {path.name: path.read_bytes() for path in tmp_path.glob("app.log*")}
    assert written == {"app.log": b"cccc\r\n", "app.log.1": b"bbbb\r\n", "app.log.2": b"aaaa\r\n"}


def test_namer_and_rotator_set_after_construction(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=2)
    moved: list[tuple[str, str]] = []

    def rotator(source: str, target: str) -> None:
        moved.append((os.path.basename(source), os.path.basename(target)))
        os.rename(source, target)

    handler.namer = lambda name: name.replace(".log.", ".") + ".log"
    handler.rotator = rotator
    write(handler, "aaaa", "bbbb", "cccc", "dddd")

    assert contents(tmp_path) == {"app.log": "dddd\n", "app.1.log": "cccc\n", "app.2.log": "bbbb\n"}
    assert moved == [("app.log", "app.1.log")] * 3


def test_namer_may_put_backups_into_another_directory(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=2)
    handler.namer = lambda name: os.path.join(os.path.dirname(name), "old", os.path.basename(name))

    write(handler, "aaaa", "bbbb", "cccc")

    assert contents(tmp_path) == {"app.log": "cccc\n", "old/app.log.1": "bbbb\n", "old/app.log.2": "aaaa\n"}


def test_rotator_that_compresses(tmp_path: Path) -> None:
    """The logging cookbook's way; `use_gzip` is not needed for it."""

    def rotator(source: str, target: str) -> None:
        with open(source, "rb") as plain, GzipFile(target, "wb") as packed:
            shutil.copyfileobj(plain, packed)
        os.remove(source)

    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=2)
    handler.namer = lambda name: name + ".gz"
    handler.rotator = rotator

    write(handler, "aaaa", "bbbb", "cccc", "dddd")

    assert contents(tmp_path) == {"app.log": "dddd\n", "app.log.1.gz": "cccc\n", "app.log.2.gz": "bbbb\n"}


def test_rotator_that_copies_and_truncates(tmp_path: Path) -> None:
    def rotator(source: str, target: str) -> None:
        shutil.copy(source, target)
        os.truncate(source, 0)

    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=2)
    handler.rotator = rotator

    write(handler, "aaaa", "bbbb", "cccc", "dddd")

    assert contents(tmp_path) == {"app.log": "dddd\n", "app.log.1": "cccc\n", "app.log.2": "bbbb\n"}


def test_rotator_that_deletes(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=2)
    handler.rotator = lambda source, target: os.remove(source)

    write(handler, "aaaa", "bbbb")

    assert contents(tmp_path) == {"app.log": "bbbb\n"}


def test_rotator_that_fails_costs_no_record(tmp_path: Path) -> None:
    handler = Recording(tmp_path / "app.log", maxBytes=10, backupCount=2)
    handler.rotator = lambda source, target: (_ for _ in ()).throw(RuntimeError("no room"))

    write(handler, "aaaa", "bbbb", "cccc")

    assert contents(tmp_path) == {"app.log": "aaaa\nbbbb\ncccc\n"}
    assert [(text, str(error)) for text, error in handler.failures] == [("bbbb", "no room")]


def test_one_name_for_the_only_backup_is_fine(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=1)
    handler.namer = lambda name: str(tmp_path / "backup")

    write(handler, "aaaa", "bbbb", "cccc")

    assert contents(tmp_path) == {"app.log": "cccc\n", "backup": "bbbb\n"}


def test_directory_where_the_backup_should_go_costs_no_record(tmp_path: Path) -> None:
    """Reported once, then left alone for a while; logging recovers by itself once it is gone."""
    (tmp_path / "app.log.1").mkdir()
    handler = Recording(tmp_path / "app.log", maxBytes=10, backupCount=2)

    write(handler, "aaaa", "bbbb", "cccc")
    (tmp_path / "app.log.1").rmdir()
    handler._rotation.trouble.until = 0.0
    write(handler, "dddd")

    assert contents(tmp_path) == {"app.log": "dddd\n", "app.log.1": "aaaa\nbbbb\ncccc\n"}
    ((text, error),) = handler.failures
    assert text == "bbbb"
    assert isinstance(error, OSError)


def test_do_rollover_by_hand(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", backupCount=2)
    write(handler, "aaaa")

    handler.doRollover()
    write(handler, "bbbb")

    assert contents(tmp_path) == {"app.log": "bbbb\n", "app.log.1": "aaaa\n"}
    assert handler.num_rollovers == 1


def test_do_rollover_by_hand_raises_what_goes_wrong(tmp_path: Path) -> None:
    """It is not a logging call: whoever asks for a rotation learns that there was none."""
    (tmp_path / "app.log.1").mkdir()
    handler = Strict(tmp_path / "app.log", backupCount=2)
    write(handler, "aaaa")

    with pytest.raises(OSError, match="a directory stands where a backup belongs"):
        handler.doRollover()

    write(handler, "bbbb")
    assert contents(tmp_path) == {"app.log": "aaaa\nbbbb\n", "app.log.1/": ""}
    assert handler.num_rollovers == 0


# -- subclasses ---------------------------------------------------------------


def test_should_rollover_of_a_subclass_decides(tmp_path: Path) -> None:
    class Marked(Strict):
        def shouldRollover(self, record: logging.LogRecord) -> bool:
            return record.getMessage().startswith("new")

    handler = Marked(tmp_path / "app.log", backupCount=3)

    write(handler, "a", "b", "new c", "d", "new e")

    assert contents(tmp_path) == {"app.log": "new e\n", "app.log.1": "new c\nd\n", "app.log.2": "a\nb\n"}


def test_overrides_of_a_subclass_are_called(tmp_path: Path) -> None:
    calls: list[str] = []

    class Talking(Strict):
        def doRollover(self) -> None:
            calls.append("doRollover")
            super().doRollover()

        def rotation_filename(self, default_name: str) -> str:
            calls.append("rotation_filename")
            return super().rotation_filename(default_name) + ".old"

        def rotate(self, source: str, dest: str) -> None:
            calls.append("rotate")
            super().rotate(source, dest)

    handler = Talking(tmp_path / "app.log", maxBytes=10, backupCount=1)
    write(handler, "aaaa", "bbbb")

    assert contents(tmp_path) == {"app.log": "bbbb\n", "app.log.1.old": "aaaa\n"}
    assert calls == ["doRollover", "rotation_filename", "rotate"]


def test_emit_of_a_subclass_that_rolls_by_itself_without_the_lock(tmp_path: Path) -> None:
    class Impatient(Strict):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR:
                self.doRollover()
            super().emit(record)

    handler = Impatient(tmp_path / "app.log", backupCount=5)
    write(handler, "a", "b")
    handler.handle(a_record("c", level=logging.ERROR))
    handler.emit(a_record("d", level=logging.ERROR))

    assert contents(tmp_path) == {"app.log": "d\n", "app.log.1": "c\n", "app.log.2": "a\nb\n"}


def test_object_that_only_looks_like_a_record_is_written(tmp_path: Path) -> None:
    """What is due after a record asks nothing of it while there is no error to tell."""
    handler = ConcurrentRotatingFileHandler(tmp_path / "app.log", maxBytes=10, backupCount=1)

    for text in ("aaaaaa", "bbbbbb"):
        handler.emit(SimpleNamespace(**vars(a_record(text)), getMessage=lambda text=text: text))  # type: ignore[arg-type]

    assert contents(tmp_path) == {"app.log.1": "aaaaaa\n", "app.log": "bbbbbb\n"}


def test_emit_of_a_subclass_sees_every_record(tmp_path: Path) -> None:
    seen: list[str] = []

    class Counting(Strict):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())
            super().emit(record)

    write(Counting(tmp_path / "app.log"), "a", "b")

    assert seen == ["a", "b"]
    assert contents(tmp_path) == {"app.log": "a\nb\n"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
def test_header_written_through_the_stream_in_do_rollover(tmp_path: Path, encoding: str) -> None:
    """A well-known recipe for CSV logs."""

    class WithHeader(Strict):
        def doRollover(self) -> None:
            super().doRollover()
            assert self.stream is not None
            self.stream.write("time,text\n")

    handler = WithHeader(tmp_path / "app.log", maxBytes=20, backupCount=2, encoding=encoding, newline="")

    write(handler, "aaaaaaaaaaaaaa", "bbbb")

    files = contents(tmp_path, encoding)
    assert files == {"app.log": "time,text\nbbbb\n", "app.log.1": "aaaaaaaaaaaaaa\n"}
    assert (tmp_path / "app.log").read_bytes().startswith("".encode(encoding))


def test_format_of_a_subclass_is_used(tmp_path: Path) -> None:
    class Loud(Strict):
        def format(self, record: logging.LogRecord) -> str:
            return super().format(record).upper()

    write(Loud(tmp_path / "app.log"), "quiet")

    assert contents(tmp_path) == {"app.log": "QUIET\n"}


def test_attributes_of_a_subclass_may_be_set_before_ours(tmp_path: Path) -> None:
    class Named(Strict):
        def __init__(self, filename: Path) -> None:
            self.label = "mine"
            super().__init__(filename, maxBytes=10, backupCount=1)

        def rotation_filename(self, default_name: str) -> str:
            return f"{default_name}.{self.label}"

    write(Named(tmp_path / "app.log"), "aaaa", "bbbb")

    assert contents(tmp_path) == {"app.log": "bbbb\n", "app.log.1.mine": "aaaa\n"}


# -- the standard library's interface -----------------------------------------


def test_it_is_a_base_rotating_handler(tmp_path: Path) -> None:
    """Frameworks ask with isinstance."""
    handler = Strict(tmp_path / "app.log")

    assert isinstance(handler, logging.handlers.BaseRotatingHandler)
    assert isinstance(handler, logging.FileHandler)
    assert handler.baseFilename == str(tmp_path / "app.log")
    assert handler.mode == "a"
    assert str(tmp_path / "app.log") in repr(handler)


def test_close_twice_and_emit_after_close(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log")
    write(handler, "one")

    handler.close()
    handler.close()
    assert handler.stream is None
    write(handler, "two")
    handler.close()

    assert contents(tmp_path) == {"app.log": "one\ntwo\n"}


def test_close_of_an_unused_handler(tmp_path: Path) -> None:
    Strict(tmp_path / "app.log").close()

    assert contents(tmp_path) == {}


@linux
def test_close_leaves_no_descriptor(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log")
    write(handler, "one")
    assert sorted(path for path in open_paths() if path.startswith(str(tmp_path))) == [
        str(tmp_path / ".__app.lock"),
        str(tmp_path / "app.log"),
    ]

    handler.close()

    assert not [path for path in open_paths() if path.startswith(str(tmp_path))]


@linux
def test_forgotten_handler_leaves_no_descriptor(tmp_path: Path) -> None:
    write(Strict(tmp_path / "app.log"), "one")
    gc.collect()

    assert not [path for path in open_paths() if path.startswith(str(tmp_path))]


@linux
def test_keep_file_open_false_keeps_nothing_open(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=3, keep_file_open=False)

    for text in ("aaaa", "bbbb", "cccc"):
        write(handler, text)
        assert not [path for path in open_paths() if path.startswith(str(tmp_path))]
    handler.emit_batch([a_record("dddd")])
    assert not [path for path in open_paths() if path.startswith(str(tmp_path))]

    assert contents(tmp_path) == {
        "app.log": "dddd\n",
        "app.log.1": "cccc\n",
        "app.log.2": "bbbb\n",
        "app.log.3": "aaaa\n",
    }


def test_stream_is_a_text_stream_on_the_file(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", encoding="utf-8")
    write(handler, "one")
    stream = handler.stream

    assert isinstance(stream, io.TextIOBase)
    assert os.path.samestat(os.fstat(stream.fileno()), os.stat(tmp_path / "app.log"))
    assert stream.writable()
    stream.write("through the stream\n")
    stream.flush()
    write(handler, "two")

    assert contents(tmp_path) == {"app.log": "one\nthrough the stream\ntwo\n"}


def test_closing_the_stream_does_not_stop_the_handler(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log")
    write(handler, "one")
    assert handler.stream is not None

    handler.stream.close()
    write(handler, "two")

    assert contents(tmp_path) == {"app.log": "one\ntwo\n"}


def test_faulthandler_writes_into_the_log(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", delay=False)
    was_enabled = faulthandler.is_enabled()
    try:
        faulthandler.enable(handler.stream)  # type: ignore[arg-type]
        faulthandler.dump_traceback(handler.stream)  # type: ignore[arg-type]
    finally:
        faulthandler.disable()
        if was_enabled:
            faulthandler.enable(sys.__stderr__)
    write(handler, "after")

    text = contents(tmp_path)["app.log"]
    assert "test_faulthandler_writes_into_the_log" in text
    assert text.endswith("\nafter\n")


def test_set_stream_is_refused_and_breaks_nothing(tmp_path: Path) -> None:
    """The stream follows the file; writing elsewhere would bypass lock and rotation."""
    handler = Strict(tmp_path / "app.log")
    write(handler, "one")

    with pytest.raises(TypeError, match="the stream of a file handler follows its file"):
        handler.setStream(io.StringIO())  # type: ignore[arg-type]
    write(handler, "two")

    assert contents(tmp_path) == {"app.log": "one\ntwo\n"}


def test_set_stream_to_its_own_stream_is_no_change(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log")
    write(handler, "one")

    assert handler.setStream(handler.stream) is None  # type: ignore[arg-type]


def test_stream_set_to_none_closes(tmp_path: Path) -> None:
    """As recipes for `doRollover` do it."""
    handler = Strict(tmp_path / "app.log")
    write(handler, "one")

    handler.stream = None
    assert handler.stream is None
    write(handler, "two")

    assert contents(tmp_path) == {"app.log": "one\ntwo\n"}


def test_filters_and_what_handle_returns(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log")
    handler.addFilter(lambda record: "secret" not in record.getMessage())

    assert handler.handle(a_record("open"))
    assert not handler.handle(a_record("secret"))

    assert contents(tmp_path) == {"app.log": "open\n"}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="filters return records since Python 3.12")
def test_filter_may_replace_the_record(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log")
    handler.addFilter(lambda record: a_record("replaced"))  # type: ignore[arg-type,return-value]

    write(handler, "original")

    assert contents(tmp_path) == {"app.log": "replaced\n"}


def test_errors_of_a_logging_call_go_to_handle_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = ConcurrentRotatingFileHandler(tmp_path / "app.log")

    handler.handle(a_record("%d", "no number"))
    write(handler, "next")

    assert contents(tmp_path) == {"app.log": "next\n"}
    assert "--- Logging error ---" in capsys.readouterr().err


def test_debug_tells_on_stderr_what_is_renamed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=1, debug=True)

    write(handler, "aaaa", "bbbb")

    assert f"{tmp_path / 'app.log'} -> {tmp_path / 'app.log.1'}" in capsys.readouterr().err


def test_queue_listener_and_memory_handler(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=1000, backupCount=9)
    records: queue.Queue[Any] = queue.Queue()
    listener = logging.handlers.QueueListener(records, handler, respect_handler_level=True)
    listener.start()
    feeder = logging.handlers.QueueHandler(records)
    write(feeder, *[f"queued {number}" for number in range(200)])
    listener.stop()
    memory = logging.handlers.MemoryHandler(1000, target=handler)
    write(memory, *[f"remembered {number}" for number in range(50)])
    memory.close()

    files = contents(tmp_path)
    lines = "".join(files[name] for name in sorted(files, reverse=True)).splitlines()
    assert lines == [f"queued {number}" for number in range(200)] + [
        f"remembered {number}" for number in range(50)
    ]


# -- CLH's interface ----------------------------------------------------------


def test_attributes_of_clh(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=1, use_gzip=True, chmod=0o600)

    assert handler.lockFilename == str(tmp_path / ".__app.lock")
    assert handler.getLockFilename(None) == str(tmp_path / ".__app.lock")
    assert handler.getLockFilename(str(tmp_path / "locks")) == str(tmp_path / "locks" / ".__app.lock")
    assert handler.baseLockFilename("/var/log/app.log") == ("/var/log", ".__app.lock")
    assert handler.baseLockFilename("app") == ("", ".__app.lock")
    assert handler.num_rollovers == 0
    write(handler, "aaaa", "bbbb", "cccc")
    assert handler.num_rollovers == 2
    assert (handler.use_gzip, handler.chmod, handler.keep_file_open) == (True, 0o600, True)


def test_lock_file_directory_is_made_and_used(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", lock_file_directory=tmp_path / "run" / "locks")

    write(handler, "one")

    assert handler.lockFilename == str(tmp_path / "run" / "locks" / ".__app.lock")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "app.log",
        os.path.join("run", "locks", ".__app.lock"),
    ]


# -- configuration ------------------------------------------------------------


@pytest.mark.parametrize("how", ["class", "()"])
def test_dict_config(tmp_path: Path, how: str) -> None:
    run_program(
        """
        import logging, logging.config, sys
        logging.config.dictConfig({
            "version": 1,
            "formatters": {"short": {"format": "%(levelname)s %(message)s"}},
            "handlers": {
                "file": {
                    sys.argv[1]: "concurrent_log_handler.ConcurrentRotatingFileHandler",
                    "filename": "app.log", "maxBytes": "1 kB", "backupCount": 2, "formatter": "short",
                    "encoding": "utf-8", "use_gzip": True, "level": "INFO",
                },
            },
            "root": {"handlers": ["file"], "level": "DEBUG"},
        })
        logging.debug("no")
        logging.info("yes")
        """,
        tmp_path,
        how,
    )

    assert contents(tmp_path) == {"app.log": "INFO yes\n"}


@pytest.mark.parametrize(
    "arguments",
    [
        "class = concurrent_log_handler.ConcurrentRotatingFileHandler\nargs = ('app.log', 'a', 20, 1)",
        "class = handlers.ConcurrentRotatingFileHandler\nargs = ('app.log', 'a', 20, 1)",
        "class = handlers.ConcurrentRotatingFileHandler\nargs = ('app.log',)\n"  # noqa: ISC004
        "kwargs = {'maxBytes': 20, 'backupCount': 1, 'lock_timeout': 2}",
    ],
)
def test_file_config(tmp_path: Path, arguments: str) -> None:
    (tmp_path / "logging.ini").write_text(
        "[loggers]\nkeys = root\n[handlers]\nkeys = file\n[formatters]\nkeys = short\n"
        "[logger_root]\nlevel = DEBUG\nhandlers = file\n"
        "[formatter_short]\nformat = %(message)s\n"
        f"[handler_file]\nformatter = short\n{arguments}\n"
    )
    run_program(
        """
        import logging, logging.config
        import concurrent_log_handler
        logging.config.fileConfig("logging.ini")
        logging.info("aaaaaaaaaa")
        logging.info("bbbbbbbbbb")
        """,
        tmp_path,
    )
    (tmp_path / "logging.ini").unlink()

    assert contents(tmp_path) == {"app.log": "bbbbbbbbbb\n", "app.log.1": "aaaaaaaaaa\n"}


def test_name_in_the_standard_librarys_module() -> None:
    assert logging.handlers.ConcurrentRotatingFileHandler is ConcurrentRotatingFileHandler  # type: ignore[attr-defined]
    assert "ConcurrentRotatingFileHandler" in concurrent_log_handler.__all__


# -- paths --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "app.log",
        "app",
        "a log with spaces.log",
        "журнал-日誌-é.log",
        ".hidden",
        "app.log.log",
        "x" * 196 + ".log",
        "a%sb{}.log",
    ],
)
@pytest.mark.parametrize("use_gzip", [False, True])
def test_names_of_logs(tmp_path: Path, name: str, use_gzip: bool) -> None:
    handler = Strict(tmp_path / name, maxBytes=10, backupCount=2, use_gzip=use_gzip)
    gz = ".gz" if use_gzip else ""

    write(handler, "aaaa", "bbbb", "cccc")

    assert contents(tmp_path) == {name: "cccc\n", f"{name}.1{gz}": "bbbb\n", f"{name}.2{gz}": "aaaa\n"}


@pytest.mark.skipif(os.name == "nt", reason="Windows counts 255 characters, and Wine some more")
def test_name_too_long_for_a_lock_file_is_an_error_at_construction(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="File name too long"):
        ConcurrentRotatingFileHandler(tmp_path / ("x" * 250))

    assert contents(tmp_path) == {}


def test_path_like_and_text(tmp_path: Path) -> None:
    class There:
        def __fspath__(self) -> str:
            return str(tmp_path / "app.log")

    write(Strict(There()), "one")
    write(Strict(str(tmp_path / "app.log")), "two")

    assert contents(tmp_path) == {"app.log": "one\ntwo\n"}


@pytest.mark.parametrize("wrong", [None, 3, ["app.log"]])
def test_something_that_is_no_path(wrong: Any) -> None:
    with pytest.raises(TypeError):
        ConcurrentRotatingFileHandler(wrong)


def test_relative_path_is_the_directorys_at_construction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    handler = Strict("app.log", maxBytes=10, backupCount=2, use_gzip=True)

    write(handler, "aaaa")
    monkeypatch.chdir(tmp_path / "elsewhere")
    write(handler, "bbbb")
    handler.close()
    write(handler, "cccc")

    assert contents(tmp_path) == {
        "app.log": "cccc\n",
        "app.log.1.gz": "bbbb\n",
        "app.log.2.gz": "aaaa\n",
        "elsewhere/": "",
    }


@posix
def test_link_to_a_file_is_written_through_and_rotated_as_in_cpython(tmp_path: Path) -> None:
    results = []
    for kind in (logging.handlers.RotatingFileHandler, Strict):
        directory = tmp_path / kind.__name__
        directory.mkdir()
        (directory / "data").mkdir()
        (directory / "app.log").symlink_to(Path("data", "real.log"))
        handler = kind(directory / "app.log", maxBytes=10, backupCount=2)
        write(handler, "aaaa")
        assert (directory / "data" / "real.log").read_text() == "aaaa\n"
        write(handler, "bbbb", "cccc")
        handler.close()
        results.append(contents(directory))

    assert results[0] == results[1]
    assert results[1]["app.log.2"] == f"-> {Path('data', 'real.log')}"


@posix
def test_link_to_a_directory_shares_the_lock(tmp_path: Path) -> None:
    """Two names of one log in one process: neither may wait for the other."""
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    direct = Strict(tmp_path / "data" / "app.log", maxBytes=10, backupCount=3, lock_timeout=0.5)
    through = Strict(tmp_path / "link" / "app.log", maxBytes=10, backupCount=3, lock_timeout=0.5)

    direct.acquire()
    try:
        write(through, "aaaa")
    finally:
        direct.release()
    write(direct, "bbbb")
    write(through, "cccc")

    assert contents(tmp_path / "data") == {"app.log": "cccc\n", "app.log.1": "bbbb\n", "app.log.2": "aaaa\n"}


@posix
def test_deleted_directory_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    handler = Strict(tmp_path / "logs" / "app.log")
    write(handler, "one")

    shutil.rmtree(tmp_path / "logs")
    write(handler, "two")

    assert contents(tmp_path) == {"logs/app.log": "two\n"}


@posix
def test_log_moved_away_or_removed_is_made_again(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log")
    write(handler, "one")

    os.rename(tmp_path / "app.log", tmp_path / "app.log-20261123")
    write(handler, "two")
    os.remove(tmp_path / "app.log")
    write(handler, "three")

    assert contents(tmp_path) == {"app.log": "three\n", "app.log-20261123": "one\n"}


# -- text ---------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_byte_order_mark_only_at_the_start_of_a_file(tmp_path: Path, encoding: str) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=70, backupCount=3, encoding=encoding, newline="")

    write(handler, "aaaa", "bbbb")
    handler.close()
    write(handler, "cccc")
    write(pickle.loads(pickle.dumps(handler)), "dddd")
    handler.doRollover()
    handler.emit_batch([a_record("eeee"), a_record("ffff")])

    files = contents(tmp_path, encoding)
    assert (
        "".join(files[name] for name in sorted(files, reverse=True)) == "aaaa\nbbbb\ncccc\ndddd\neeee\nffff\n"
    )
    for name in files:
        start = (tmp_path / name).read_bytes()
        mark = "".encode(encoding)
        assert mark
        assert start.startswith(mark)
        assert len(start) < 70


@pytest.mark.parametrize(
    "encoding", ["utf-16-le", "utf-16-be", "utf-8", "latin-1", "cp1252", "gb18030", "shift_jis"]
)
def test_encodings_without_a_mark(tmp_path: Path, encoding: str) -> None:
    handler = Strict(tmp_path / "app.log", encoding=encoding, newline="")

    write(handler, "abc", "def")

    assert (tmp_path / "app.log").read_bytes() == "abc\ndef\n".encode(encoding)


def test_character_that_the_encoding_lacks_is_written_as_an_escape(tmp_path: Path) -> None:
    write(Strict(tmp_path / "app.log", encoding="ascii"), "5 \N{EURO SIGN} caf\xe9 \U0001f600")

    assert contents(tmp_path) == {"app.log": "5 \\u20ac caf\\xe9 \\U0001f600\n"}


def test_lone_surrogate_is_written_as_an_escape(tmp_path: Path) -> None:
    """They come from file names in `os.fsdecode`."""
    write(Strict(tmp_path / "app.log", encoding="utf-8"), "bad \udc80 name")

    assert contents(tmp_path) == {"app.log": "bad \\udc80 name\n"}


def test_strict_errors_report_the_record_and_go_on(tmp_path: Path) -> None:
    handler = Recording(tmp_path / "app.log", encoding="ascii", errors="strict")

    write(handler, "caf\xe9", "plain")

    assert contents(tmp_path) == {"app.log": "plain\n"}
    ((text, error),) = handler.failures
    assert text == "caf\xe9"
    assert isinstance(error, UnicodeEncodeError)


def test_errors_goes_before_unicode_error_policy(tmp_path: Path) -> None:
    write(Strict(tmp_path / "1.log", encoding="ascii", unicode_error_policy="replace"), "caf\xe9")
    write(
        Strict(tmp_path / "2.log", encoding="ascii", unicode_error_policy="replace", errors="ignore"),
        "caf\xe9",
    )

    assert contents(tmp_path) == {"1.log": "caf?\n", "2.log": "caf\n"}


def test_terminator(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", terminator="\0")
    write(handler, "one", "two\nlines")
    handler.terminator = "\n--\n"
    write(handler, "three")

    assert contents(tmp_path) == {"app.log": "one\0two\nlines\0three\n--\n"}


def test_empty_terminator(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", terminator="", maxBytes=6, backupCount=1)

    write(handler, "ab", "cd", "ef")

    assert contents(tmp_path) == {"app.log": "ef", "app.log.1": "abcd"}


@pytest.mark.parametrize(
    ("newline", "written"), [(None, os.linesep), ("", "\n"), ("\n", "\n"), ("\r\n", "\r\n"), ("\r", "\r")]
)
def test_newline(tmp_path: Path, newline: Optional[str], written: str) -> None:
    write(Strict(tmp_path / "app.log", newline=newline), "one\ntwo", "three")

    assert (tmp_path / "app.log").read_bytes() == f"one{written}two{written}three{written}".encode()


def test_default_encoding_is_the_locales(tmp_path: Path) -> None:
    program = """
        import logging, sys
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        handler = ConcurrentRotatingFileHandler(sys.argv[1])
        handler.handle(logging.makeLogRecord({"msg": "caf\\xe9"}))
        """
    run_program(program, tmp_path, "utf8.log", PYTHONUTF8="1")
    run_program(program, tmp_path, "ascii.log", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LC_ALL="C")

    assert (tmp_path / "utf8.log").read_bytes().rstrip() == b"caf\xc3\xa9"
    # Windows has a code page of its own, whatever LC_ALL says.
    assert (tmp_path / "ascii.log").read_bytes().rstrip() in (b"caf\\xe9", b"caf\xc3\xa9", b"caf\xe9")


# -- emit_batch ---------------------------------------------------------------


def test_batch_keeps_order_and_limit(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=100, backupCount=50, newline="\n")

    handler.emit_batch([a_record("%03d", number) for number in range(200)])

    files = contents(tmp_path)
    oldest_first = [f"app.log.{number}" for number in range(len(files) - 1, 0, -1)] + ["app.log"]
    assert "".join(files[name] for name in oldest_first) == "".join(
        f"{number:03d}\n" for number in range(200)
    )
    assert {len(files[name]) for name in oldest_first[:-1]} == {96}


def test_batch_gives_the_files_that_single_records_give(tmp_path: Path) -> None:
    texts = ["x" * (7 * number % 41) for number in range(120)]
    for name in ("single", "batch"):
        (tmp_path / name).mkdir()
    write(Strict(tmp_path / "single" / "app.log", maxBytes=100, backupCount=9), *texts)

    Strict(tmp_path / "batch" / "app.log", maxBytes=100, backupCount=9).emit_batch(map(a_record, texts))

    assert contents(tmp_path / "batch") == contents(tmp_path / "single")


def test_batch_of_nothing(tmp_path: Path) -> None:
    Strict(tmp_path / "app.log").emit_batch([])

    assert contents(tmp_path) == {}


def test_record_that_cannot_be_formatted_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    handler = Recording(tmp_path / "app.log")

    handler.emit_batch(
        [a_record("one"), a_record("%d", "x"), a_record("two"), a_record("%s %s", "x"), a_record("three")]
    )

    assert contents(tmp_path) == {"app.log": "one\ntwo\nthree\n"}
    assert [text for text, _ in handler.failures] == ["%d", "%s %s"]
    assert all(isinstance(error, TypeError) for _, error in handler.failures)


def test_records_that_fail_to_arrive_cost_none_that_came(tmp_path: Path) -> None:
    """An iterator over a queue may raise in the middle."""
    handler = Strict(tmp_path / "app.log")

    def records() -> Any:
        yield a_record("one")
        raise RuntimeError("queue broken")

    with pytest.raises(RuntimeError, match="queue broken"):
        handler.emit_batch(records())
    write(handler, "two")

    assert contents(tmp_path)["app.log"].endswith("two\n")


@posix
def test_full_disk_keeps_whole_records_and_reports_the_rest(tmp_path: Path) -> None:
    handler = Recording(tmp_path / "app.log")

    with files_at_most(12):
        handler.emit_batch([a_record(text) for text in ("aaaa", "bbbb", "cccc", "d")])
    write(handler, "free again")

    assert contents(tmp_path) == {"app.log": "aaaa\nbbbb\nd\nfree again\n"}
    ((text, error),) = handler.failures
    assert text == "cccc"
    assert isinstance(error, OSError)


@posix
def test_full_disk_takes_no_part_of_a_record(tmp_path: Path) -> None:
    handler = Recording(tmp_path / "app.log")

    with files_at_most(7):
        write(handler, "aaaa", "bbbb", "cccc")
    write(handler, "dddd")

    assert contents(tmp_path) == {"app.log": "aaaa\ndddd\n"}
    assert [text for text, _ in handler.failures] == ["bbbb", "cccc"]


# -- copies -------------------------------------------------------------------


class Labelled(Strict):
    def __init__(self, *args: Any, label: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label = label

    def format(self, record: logging.LogRecord) -> str:
        return self.label + super().format(record)


class OnlyShort(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return len(record.getMessage()) < 10


def upper_case_names(name: str) -> str:
    head, tail = os.path.split(name)
    return os.path.join(head, tail.upper())


@pytest.mark.parametrize("duplicate", [copy.copy, lambda handler: pickle.loads(pickle.dumps(handler))])
def test_copy_carries_everything_that_was_set(tmp_path: Path, duplicate: Any) -> None:
    handler = Labelled(
        tmp_path / "app.log", maxBytes=20, backupCount=2, label="> ", chmod=0o600, use_gzip=True
    )
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    handler.setLevel(logging.WARNING)
    handler.addFilter(OnlyShort())
    handler.namer = upper_case_names
    handler.set_name(f"a name of {tmp_path}")
    write(handler, "aaaa")

    twin = duplicate(handler)
    write(twin, "bbbb", "much too long for the filter")
    write(handler, "cccc")
    twin.close()

    assert type(twin) is Labelled
    assert (twin.level, twin.name, twin.maxBytes, twin.chmod) == (logging.WARNING, handler.name, 20, 0o600)
    assert contents(tmp_path) == {
        "app.log": "> INFO cccc\n",
        "APP.LOG.1.gz": "> INFO bbbb\n",
        "APP.LOG.2.gz": "> INFO aaaa\n",
    }


def test_pickle_crosses_to_a_spawned_interpreter(tmp_path: Path) -> None:
    handler = ConcurrentRotatingFileHandler(
        tmp_path / "app.log", maxBytes=20, backupCount=2, encoding="utf-16"
    )
    handler.setFormatter(logging.Formatter("[%(message)s]"))
    write(handler, "here")

    run_program(
        """
        import logging, pickle, sys
        handler = pickle.loads(bytes.fromhex(sys.argv[1]))
        handler.handle(logging.makeLogRecord({"msg": "there"}))
        """,
        tmp_path,
        pickle.dumps(handler).hex(),
    )

    assert contents(tmp_path, "utf-16") == {"app.log": "[there]\n", "app.log.1": "[here]\n"}


# -- what is not a regular file -----------------------------------------------


@posix
def test_dev_null_takes_records_and_never_rotates(tmp_path: Path) -> None:
    handler = Strict("/dev/null", maxBytes=1, backupCount=3, lock_file_directory=tmp_path)

    write(handler, "one", "two")

    assert contents(tmp_path) == {}
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert not os.path.lexists("/dev/null.1")


@posix
def test_fifo_takes_records_and_never_rotates(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        handler = Strict(tmp_path / "pipe", maxBytes=1, backupCount=3)
        write(handler, "one", "two")
        handler.emit_batch([a_record("three"), a_record("four")])

        assert os.read(reader, 100) == b"one\ntwo\nthree\nfour\n"
    finally:
        os.close(reader)
    assert contents(tmp_path) == {"pipe": "special"}


@posix
def test_do_rollover_of_a_device_by_hand_moves_nothing(tmp_path: Path) -> None:
    """As root, a rename of /dev/null would be a disaster."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    handler = Strict(tmp_path / "pipe", maxBytes=1, backupCount=3)
    write(handler, "one")

    try:
        handler.doRollover()
    except OSError:
        pass
    os.close(reader)

    assert contents(tmp_path) == {"pipe": "special"}


@posix
def test_pipe_whose_reader_has_gone_is_an_error_not_a_wait(tmp_path: Path) -> None:
    """`app | head`, with the log at /dev/stdout."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    handler = Recording(tmp_path / "pipe")
    write(handler, "one")
    assert os.read(reader, 100) == b"one\n"
    os.close(reader)

    write(handler, *["x" * 1000] * 100)
    handler.emit_batch([a_record("two"), a_record("three")])
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write(handler, "four")

    assert os.read(reader, 100) == b"four\n"
    os.close(reader)
    assert len(handler.failures) == 102
    assert all(isinstance(error, OSError) for _, error in handler.failures)


@posix
@pytest.mark.parametrize("batch", [False, True])
def test_pipe_takes_a_long_record_whole_though_signals_interrupt(tmp_path: Path, batch: bool) -> None:
    """A write that a signal interrupts ends short; a pipe takes nothing back, so the rest follows."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    handler = Strict(tmp_path / "pipe")
    write(handler, "first")
    read = [os.read(reader, 100)]
    signals: list[int] = []

    def read_all(*_: object) -> None:
        signals.append(1)
        with contextlib.suppress(BlockingIOError):
            read.append(os.read(reader, 1 << 16))

    before = signal.signal(signal.SIGALRM, read_all)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        if batch:
            handler.emit_batch([a_record("a" * 200_000), a_record("b" * 200_000)])
        else:
            write(handler, "a" * 200_000, "b" * 200_000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    read_all()

    assert len(signals) > 2
    assert b"".join(read) == b"first\n" + b"a" * 200_000 + b"\n" + b"b" * 200_000 + b"\n"
    os.close(reader)


@posix
def test_dev_full_reports_each_record(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    handler = Recording("/dev/full", lock_file_directory=tmp_path)

    write(handler, "one", "two")

    assert [text for text, _ in handler.failures] == ["one", "two"]


# -- two handlers, threads ----------------------------------------------------


def test_two_handlers_of_one_process_share_a_log(tmp_path: Path) -> None:
    first = Strict(tmp_path / "app.log", maxBytes=20, backupCount=9)
    second = Strict(tmp_path / "app.log", maxBytes=20, backupCount=9)

    for number in range(6):
        write(first, f"first {number}")
        write(second, f"second{number}")

    files = contents(tmp_path)
    assert "".join(files[name] for name in sorted(files, reverse=True)) == "".join(
        f"first {number}\nsecond{number}\n" for number in range(6)
    )


def test_logging_from_inside_a_formatter_and_a_namer(tmp_path: Path) -> None:
    """Both run the user's code on the way of a record."""
    handler = Strict(tmp_path / "app.log", maxBytes=60, backupCount=5)

    class Chatty(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            if record.levelno < logging.ERROR:
                handler.handle(a_record("inside the formatter", level=logging.ERROR))
            return super().format(record)

    def namer(name: str) -> str:
        handler.handle(a_record("inside the namer", level=logging.ERROR))
        return name

    handler.setFormatter(Chatty())
    handler.namer = namer
    write(handler, "one", "two", "three")

    lines = "".join(contents(tmp_path).values()).splitlines()
    assert sorted(line for line in lines if "namer" not in line) == sorted(
        ["one", "two", "three"] + ["inside the formatter"] * 3
    )
    assert lines.count("inside the namer") % 5 == 0


def test_threads_share_a_handler(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=2000, backupCount=99)
    start = threading.Barrier(4)

    def work(name: int) -> None:
        start.wait(10)
        for number in range(300):
            handler.handle(a_record("%d %d", name, number))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()

    files = contents(tmp_path)
    names = sorted(files, key=lambda name: -int(name.rpartition(".")[2]) if name != "app.log" else 0)
    lines = "".join(files[name] for name in names).splitlines()
    for name in range(4):
        assert [line for line in lines if line.startswith(f"{name} ")] == [f"{name} {n}" for n in range(300)]
    assert len(lines) == 1200


def test_no_warnings_from_usual_arguments(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(Strict(tmp_path / "app.log", "a", 1000, 2, "utf-8"), "x")
        write(Strict(tmp_path / "app.log"), "y")

    assert contents(tmp_path) == {"app.log": "x\ny\n"}


def test_endless_recursion_is_the_applications_error(tmp_path: Path) -> None:
    """As in CPython's handlers: `handleError` would only recurse on.  The lock is free afterwards."""
    handler = Strict(tmp_path / "app.log", lock_timeout=0.5)

    class Endless(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return self.format(record)

    handler.setFormatter(Endless())
    with pytest.raises(RecursionError):
        write(handler, "one")
    handler.setFormatter(None)
    thread = threading.Thread(target=write, args=(handler, "two"))
    thread.start()
    thread.join(10)

    assert contents(tmp_path) == {"app.log": "two\n"}


@pytest.mark.parametrize("way", ["rotator", "namer"])
def test_interrupt_inside_the_users_code_of_a_rotation(tmp_path: Path, way: str) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=3, lock_timeout=0.5)
    write(handler, "aaaa")

    def interrupt(*_: str) -> str:
        raise KeyboardInterrupt

    setattr(handler, way, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(handler, "bbbb")
    setattr(handler, way, None)
    thread = threading.Thread(target=write, args=(handler, "cccc"))
    thread.start()
    thread.join(10)
    in_a_fork(lambda: write(handler, "dddd"))

    assert contents(tmp_path) == {"app.log": "dddd\n", "app.log.1": "cccc\n", "app.log.2": "aaaa\n"}


@posix
def test_all_backups_that_a_gap_hides_come_after_it(tmp_path: Path) -> None:
    """A kill left the gap; the rotation closes it and costs none of them."""
    for number in (1, 3):
        (tmp_path / f"app.log.{number}").write_text(f"backup {number}\n")
    (tmp_path / "app.log").write_text("live\n")

    write(Strict(tmp_path / "app.log", maxBytes=10, backupCount=3), "next")

    assert contents(tmp_path) == {
        "app.log": "next\n",
        "app.log.1": "live\n",
        "app.log.2": "backup 1\n",
        "app.log.3": "backup 3\n",
    }


def test_stream_that_the_user_has_kept_writes_into_no_other_file(tmp_path: Path) -> None:
    """`sys.stderr = handler.stream`: after close() or a rotation its number may be another file's."""
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=1)
    write(handler, "one")
    kept = handler.stream
    assert kept is not None
    write(handler, "a record that rotates")

    with open(tmp_path / "customers.db", "w"), pytest.raises(ValueError, match="closed file"):
        kept.write("stray text")
    second = handler.stream
    assert second is not None
    handler.close()
    with open(tmp_path / "customers.db", "w"), pytest.raises(ValueError, match="closed file"):
        second.write("stray text")

    assert contents(tmp_path) == {
        "app.log": "a record that rotates\n",
        "app.log.1": "one\n",
        "customers.db": "",
    }


@posix
@pytest.mark.parametrize("options", [{"backupCount": 3}, {"background_gzip": True, "backupCount": 3}])
def test_nothing_stays_open_without_keep_file_open(tmp_path: Path, options: dict[str, Any]) -> None:
    """Neither after a rotation, nor after a compression, nor after a write that failed."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("Linux shows open descriptors there")
    handler = Strict(tmp_path / "app.log", maxBytes=20, keep_file_open=False, use_gzip=True, **options)

    gc.collect()  # what other tests have left, where nobody counts references
    before = open_paths().count("/dev/full")

    def open_here() -> list[str]:
        return [path for path in open_paths() if path.startswith(str(tmp_path))]

    write(handler, "a" * 15, "b" * 15)
    handler.doRollover()
    handler._compressor.wait(SECONDS)
    assert open_here() == []
    if os.path.exists("/dev/full"):
        full = Recording("/dev/full", lock_file_directory=tmp_path, keep_file_open=False)
        write(full, "lost")
        assert len(full.failures) == 1
        assert open_here() == []
        assert open_paths().count("/dev/full") <= before


def test_should_rollover_of_the_instance_is_asked(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=1000, backupCount=3)
    handler.shouldRollover = lambda record: record.msg == "new"  # type: ignore[method-assign]

    write(handler, "one", "two", "new")

    assert contents(tmp_path) == {"app.log": "new\n", "app.log.1": "one\ntwo\n"}


def test_terminator_of_a_mixin(tmp_path: Path) -> None:
    class Mixin:
        terminator = "!\n"

    class Own(Mixin, Strict):  # type: ignore[misc]
        pass

    handler = Own(tmp_path / "app.log")
    write(handler, "one", "two")
    handler.terminator = "?\n"
    write(handler, "three")

    assert contents(tmp_path) == {"app.log": "one!\ntwo!\nthree?\n"}


def test_bytes_as_lock_file_directory(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", lock_file_directory=os.fsencode(tmp_path / "locks"))

    write(handler, "one")

    assert os.listdir(tmp_path / "locks") == [".__app.lock"]


def test_time_out_beyond_every_clock_is_for_ever(tmp_path: Path) -> None:
    assert Strict(tmp_path / "app.log", lock_timeout=sys.maxsize).lock_timeout is None


@posix
def test_created_at_once_though_another_process_is_stuck_with_the_lock(tmp_path: Path) -> None:
    """`delay=False` must not keep an application from starting."""
    import fcntl

    (tmp_path / "app.log").write_text("before\n")
    with open(tmp_path / ".__app.lock", "w") as sidecar:
        fcntl.flock(sidecar, fcntl.LOCK_EX)
        handler = Recording(tmp_path / "app.log", "w", delay=False, lock_timeout=0.05)
        assert contents(tmp_path) == {"app.log": "before\n"}
        write(handler, "one")
    write(handler, "two")

    assert contents(tmp_path) == {"app.log": "before\none\ntwo\n"}
    assert ["no lock on" in str(error) for _, error in handler.failures] == [True]


def test_recursion_error_in_a_thread_that_ends_leaves_no_lock(tmp_path: Path) -> None:
    """At one depth, not even the call that releases the lock has room for its frame (Python 3.12)."""
    run_program(
        """
        import logging, sys, threading
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        options = dict(maxBytes=200, backupCount=3, lock_timeout=0.5)
        handler = ConcurrentRotatingFileHandler("app.log", **options)
        handler.handleError = lambda record: None
        log = logging.getLogger("deep")
        log.setLevel(10)
        log.propagate = False
        log.addHandler(handler)
        log.info("first")
        sys.setrecursionlimit(300)
        owners = []
        def down(levels):
            down(levels - 1) if levels else log.info("deep")
        def work(levels):
            try:
                down(levels)
            except RecursionError:
                pass
            if handler._lock.mine():
                owners.append(levels)
        for levels in range(220, 300):
            for cold in (False, True):
                if cold:  # the lock file is not open yet
                    handler.close()
                thread = threading.Thread(target=work, args=(levels,))
                thread.start()
                thread.join()
        assert not owners, owners
        """,
        tmp_path,
    )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_batch_counts_the_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    batch = Strict(tmp_path / "batch.log", maxBytes=50, backupCount=9, encoding=encoding)
    single = Strict(tmp_path / "single.log", maxBytes=50, backupCount=9, encoding=encoding)
    texts = ["x" * 5] * 8

    batch.emit_batch([a_record(text) for text in texts])
    write(single, *texts)

    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.log*")}
    assert max(sizes.values()) < 50
    assert {name.replace("batch", "single"): size for name, size in sizes.items()} == {
        name: size for name, size in sizes.items() if name.startswith("single")
    }


def test_batch_from_a_deque_takes_what_it_has_dealt_with(tmp_path: Path) -> None:
    """So a caller that is interrupted knows what is left."""
    handler = Strict(tmp_path / "app.log", maxBytes=20, backupCount=9, newline="\n")
    records = collections.deque(a_record("record %d", number) for number in range(6))
    moves = []

    def interrupted(source: str, target: str) -> None:
        moves.append(source)
        if len(moves) == 2:
            raise KeyboardInterrupt
        os.rename(source, target)

    handler.rotator = interrupted
    with pytest.raises(KeyboardInterrupt):
        handler.emit_batch(records)
    assert [record.getMessage() for record in records] == ["record 4", "record 5"]
    handler.emit_batch(records)

    assert not records
    assert sorted("".join(contents(tmp_path).values()).splitlines()) == [f"record {n}" for n in range(6)]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, TimeoutError, RuntimeError])
def test_interrupt_just_behind_the_write_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    """Ctrl-C, or the handler of an alarm that raises: Python runs it when the system call has returned."""
    write = _livefile.append_to

    def interrupted(*arguments: Any) -> int:
        done = write(*arguments)
        monkeypatch.setattr(_livefile, "append_to", write)
        raise kind("from a signal handler", done)

    handler = ConcurrentRotatingFileHandler(tmp_path / "app.log")
    reported: list[logging.LogRecord] = []
    monkeypatch.setattr(handler, "handleError", reported.append)
    handler.handle(logging.makeLogRecord({"msg": "first"}))
    records = collections.deque(logging.makeLogRecord({"msg": f"number {each}"}) for each in range(3))
    monkeypatch.setattr(_livefile, "append_to", interrupted)
    with contextlib.suppress(KeyboardInterrupt):
        handler.emit_batch(records)
    assert not records
    handler.close()

    assert (tmp_path / "app.log").read_text() == "first\nnumber 0\nnumber 1\nnumber 2\n"
    assert len(reported) == issubclass(kind, Exception)
