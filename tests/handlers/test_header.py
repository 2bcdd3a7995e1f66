"""`header`: what each new file begins with: once, first, whoever begins the file, and whatever is killed when."""

from __future__ import annotations

import logging.config
import os
import pickle
import sys
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concurrent_log_handler import ConcurrentRotatingFileHandler, ConcurrentTimedRotatingFileHandler
from handler_support import Recording, Strict, a_record, contents, files_at_most, in_a_fork, on_wine, write
from process_helpers import run_program

posix = pytest.mark.skipif(os.name == "nt", reason="not on Windows")

HEADER = "time,text"


def columns() -> str:
    return HEADER


class Columns:
    """A callable whose text is another one each time."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        return f"#{self.asked}"


# -- what may be asked for ----------------------------------------------------


@pytest.mark.parametrize(
    ("header", "opens"),
    [
        (HEADER, "time,text\n"),
        ("time,text\n", "time,text\n"),
        ("#Version: 1.0\n#Fields: time text", "#Version: 1.0\n#Fields: time text\n"),
        ("message", "message\n"),
        ("app.log\n", "app.log\n"),
        ("1.0", "1.0\n"),
        (columns, "time,text\n"),
        (f"{__name__}.columns", "time,text\n"),
        (f"ext://{__name__}.columns", "time,text\n"),
        (f"{__name__}.HEADER", "time,text\n"),
        (None, ""),
        ("", ""),
        (lambda: "", ""),
    ],
)
def test_header_opens_the_file_once(tmp_path: Path, header: Any, opens: str) -> None:
    handler = Strict(tmp_path / "app.log", header=header)
    write(handler, "one", "two")
    again = Strict(tmp_path / "app.log", header=header)
    write(again, "three")

    assert contents(tmp_path) == {"app.log": f"{opens}one\ntwo\nthree\n"}


@pytest.mark.parametrize("wrong", [b"time,text", 1, ["time", "text"], True])
def test_header_that_is_no_text_is_refused(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(TypeError, match="header must be text, or a callable that returns it"):
        ConcurrentRotatingFileHandler(tmp_path / "app.log", header=wrong)

    assert contents(tmp_path) == {}


@pytest.mark.parametrize("wrong", ["no_such_package.columns", f"{__name__}.no_such", "ext://time,text"])
def test_name_that_leads_nowhere_is_refused_and_says_how_such_text_is_written(
    tmp_path: Path, wrong: str
) -> None:
    with pytest.raises(ValueError, match=r"header .* cannot be resolved.*end it with a line feed if"):
        ConcurrentRotatingFileHandler(tmp_path / "app.log", header=wrong)


def test_name_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="header must be text, or a callable"):
        ConcurrentRotatingFileHandler(tmp_path / "app.log", header="logging.INFO")


def test_character_that_the_encoding_lacks(tmp_path: Path) -> None:
    """As in a record: escaped, or with `strict` refused, here at once."""
    write(Strict(tmp_path / "app.log", encoding="ascii", header="größe"), "one")

    assert contents(tmp_path) == {"app.log": "gr\\xf6\\xdfe\none\n"}
    with pytest.raises(UnicodeEncodeError):
        Strict(tmp_path / "other.log", encoding="ascii", errors="strict", header="größe")


@pytest.mark.parametrize("how", ["text", "ext", "dotted"])
@pytest.mark.parametrize("kind", ["ConcurrentRotatingFileHandler", "ConcurrentTimedRotatingFileHandler"])
def test_dict_config(tmp_path: Path, how: str, kind: str) -> None:
    header = {"text": HEADER, "ext": f"ext://{__name__}.columns", "dotted": f"{__name__}.columns"}[how]
    log = {"class": f"concurrent_log_handler.{kind}", "filename": str(tmp_path / "app.log"), "header": header}
    logging.config.dictConfig(
        {"version": 1, "handlers": {"log": log}, "loggers": {"header.test": {"handlers": ["log"]}}}
    )
    logging.getLogger("header.test").error("one")

    assert contents(tmp_path)["app.log"] == "time,text\none\n"


def test_copy_has_it_too(tmp_path: Path) -> None:
    for number, header in enumerate([HEADER, columns]):
        name = f"{number}.log"
        write(pickle.loads(pickle.dumps(Strict(tmp_path / name, header=header))), "one")

        assert contents(tmp_path)[name] == "time,text\none\n"


def test_attributes_of_a_subclass_stay_its_own(tmp_path: Path) -> None:
    """Many a subclass keeps its header in one of these names, and sets it before ours is constructed."""

    class Csv(Strict):
        def __init__(self, path: Path) -> None:
            self.header = self._header = "mine"
            self.fsync = None
            super().__init__(path)

    write(Csv(tmp_path / "app.log"), "one")

    assert contents(tmp_path) == {"app.log": "one\n"}


# -- every new file -----------------------------------------------------------


def test_every_file_of_a_chain_has_it(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=20, backupCount=3, header=HEADER, use_gzip=True)
    write(handler, "aaaa", "bbbb", "cccc")
    handler.doRollover()
    write(handler, "dddd")

    assert contents(tmp_path) == {
        "app.log": "time,text\ndddd\n",
        "app.log.1.gz": "time,text\ncccc\n",
        "app.log.2.gz": "time,text\nbbbb\n",
        "app.log.3.gz": "time,text\naaaa\n",
    }


def test_every_file_of_a_timed_log_has_it(tmp_path: Path) -> None:
    """Rolled by time, and by size inside a period."""
    now = 1_700_000_000.0
    handler = ConcurrentTimedRotatingFileHandler(
        tmp_path / "app.log", "D", utc=True, maxBytes=20, backupCount=9, header=HEADER
    )
    handler._schedule.clock = lambda: now
    write(handler, "aaaa", "bbbb")
    os.utime(tmp_path / "app.log", (now, now))
    now += 86400
    write(handler, "cccc")

    first, second = "app.log.2023-11-14", "app.log.2023-11-14.1"
    found = {name: text for name, text in contents(tmp_path).items() if not name.endswith(".lock")}
    assert set(found) == {"app.log", first, second}
    assert [found[name] for name in (first, second, "app.log")] == [
        f"time,text\n{text}\n" for text in ("aaaa", "bbbb", "cccc")
    ]


def test_file_that_is_there_with_content_gets_none(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text("old\n")
    write(Strict(tmp_path / "app.log", header=HEADER), "one")

    assert contents(tmp_path) == {"app.log": "old\none\n"}


@pytest.mark.parametrize("made_by", ["touch", "delay=False", "doRollover", "truncate"])
def test_file_that_is_there_and_empty_gets_it(tmp_path: Path, made_by: str) -> None:
    """Whoever made it, or emptied it."""
    log = tmp_path / "app.log"
    handler = Strict(log, backupCount=1, header=HEADER, delay=made_by != "delay=False")
    if made_by == "touch":
        log.touch()
    elif made_by != "delay=False":
        write(handler, "before")
        os.truncate(log, 0) if made_by == "truncate" else handler.doRollover()
    write(handler, "one", "two")

    assert contents(tmp_path)["app.log"] == "time,text\none\ntwo\n"


@pytest.mark.parametrize("delay", [True, False])
def test_mode_w(tmp_path: Path, delay: bool) -> None:
    (tmp_path / "app.log").write_text("time,text\nold\n")
    write(Strict(tmp_path / "app.log", "w", header=HEADER, delay=delay), "one")

    assert contents(tmp_path) == {"app.log": "time,text\none\n"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("way", ["emit", "batch", "apart"])
def test_byte_order_mark_comes_first(tmp_path: Path, encoding: str, way: str) -> None:
    handler = Strict(tmp_path / "app.log", encoding=encoding, header="größe", newline="\r\n")
    if way == "emit":
        write(handler, "one", "two")
    elif way == "batch":
        handler.emit_batch([a_record("one"), a_record("two")])
    else:
        for text in ("one\n", "two\n"):
            handler._live.append_apart(handler._text.encode(text))

    data = (tmp_path / "app.log").read_bytes()
    assert data == "größe\r\none\r\ntwo\r\n".encode(encoding)


def test_terminator_of_records_ends_it(tmp_path: Path) -> None:
    write(Strict(tmp_path / "app.log", terminator=";\n", header="a,b"), "1,2")
    handler = Strict(tmp_path / "later.log", header="a,b")
    handler.terminator = "|\n"
    write(handler, "1,2")
    write(Strict(tmp_path / "none.log", terminator="", header="["), "1,", "2]")

    assert contents(tmp_path) == {
        "app.log": "a,b;\n1,2;\n",
        "later.log": "a,b|\n1,2|\n",
        "none.log": "[1,2]",
    }


@posix
def test_pipe_gets_none(tmp_path: Path) -> None:
    """What comes out of a pipe does not begin anywhere."""
    os.mkfifo(tmp_path / "app.log")
    reader = os.open(tmp_path / "app.log", os.O_RDONLY | os.O_NONBLOCK)
    handler = Strict(tmp_path / "app.log", header=HEADER)
    write(handler, "one")
    handler.emit_batch([a_record("two")])

    assert os.read(reader, 100) == b"one\ntwo\n"
    os.close(reader)


def test_stream_begins_the_file(tmp_path: Path) -> None:
    """What somebody else writes through the stream comes behind the header."""
    handler = Strict(tmp_path / "app.log", header=HEADER, delay=False)
    assert handler.stream is not None
    handler.stream.write("from outside\n")
    write(handler, "one")

    assert contents(tmp_path) == {"app.log": "time,text\nfrom outside\none\n"}


@posix
def test_full_disk_leaves_the_file_empty_and_it_gets_its_header_later(tmp_path: Path) -> None:
    header = Columns()
    handler = Recording(tmp_path / "app.log", header=header)
    with files_at_most(4):
        write(handler, "one")
        handler.emit_batch([a_record("two"), a_record("three")])
    write(handler, "four")

    assert [text for text, _ in handler.failures] == ["one", "two", "three"]
    text = contents(tmp_path)["app.log"]
    assert text == f"#{header.asked}\nfour\n"


# -- a header alone is an empty file ------------------------------------------


@pytest.mark.parametrize("header", [HEADER, columns])
def test_file_with_the_header_alone_is_never_rotated(tmp_path: Path, header: Any) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=40, backupCount=3, header=header, delay=False)
    assert handler.stream is not None  # begins the file
    write(handler, "x" * 35)

    assert contents(tmp_path) == {"app.log": f"time,text\n{'x' * 35}\n"}


def test_timed_log_with_the_header_alone_is_not_rolled(tmp_path: Path) -> None:
    now = 1_700_000_000.0
    handler = ConcurrentTimedRotatingFileHandler(
        tmp_path / "app.log", "S", utc=True, header=Columns(), delay=False
    )
    handler._schedule.clock = lambda: now
    assert handler.stream is not None
    now += 86400
    write(handler, "one")

    found = contents(tmp_path)
    assert {name for name in found if not name.endswith(".lock")} == {"app.log"}
    assert found["app.log"] == "#1\none\n"


def test_file_as_long_as_the_header_that_is_something_else_is_rotated(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text("text,time\n")
    write(Strict(tmp_path / "app.log", maxBytes=20, backupCount=1, header=HEADER), "x" * 15)

    assert contents(tmp_path) == {"app.log": f"time,text\n{'x' * 15}\n", "app.log.1": "text,time\n"}


def test_header_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    """With CPython's rule a file stays below `maxBytes`, so the shortest record needs two bytes more."""
    message = r"header must leave room for a record below maxBytes \(11\), and takes 10 bytes"
    with pytest.raises(ValueError, match=message):
        ConcurrentRotatingFileHandler(
            tmp_path / "app.log", maxBytes=11, backupCount=1, header=HEADER, newline="\n"
        )
    handler = Strict(tmp_path / "app.log", maxBytes=12, backupCount=2, header=HEADER, newline="\n")
    with pytest.raises(ValueError, match=message):
        handler.maxBytes = 11
    write(handler, "", "")

    assert contents(tmp_path) == {"app.log": "time,text\n\n", "app.log.1": "time,text\n\n"}


@given(
    header=st.sampled_from(["", "h", "time,text", "#a\n#b", "größe"]),
    room=st.integers(2, 60),
    records=st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=30),
    encoding=st.sampled_from(["utf-8", "utf-16"]),
    fixed=st.booleans(),
    batches=st.booleans(),
)
def test_files_stay_below_the_limit_and_hold_everything(
    tmp_path_factory: pytest.TempPathFactory,
    header: str,
    room: int,
    records: list[tuple[int, bool]],
    encoding: str,
    fixed: bool,
    batches: bool,
) -> None:
    """Single or in a batch: each file has its header, a record or more, and less than `maxBytes` if not one alone."""
    directory = tmp_path_factory.mktemp("logs")
    opens = (header + "\n" if header else "").encode(encoding)
    limit = len(opens) + len("\n".encode(encoding)) + room
    handler = Strict(
        directory / "app.log",
        newline="\n",
        maxBytes=limit,
        backupCount=99,
        encoding=encoding,
        header=header if fixed else lambda: header,
    )
    texts = [f"{number} {'x' * length}" for number, (length, _) in enumerate(records)]
    chunk: list[logging.LogRecord] = []
    for text, (_, ends) in zip(texts, records):
        chunk.append(a_record(text))
        if ends or not batches:
            handler.emit_batch(chunk) if batches else handler.handle(chunk[0])
            chunk = []
    handler.emit_batch(chunk)
    handler.close()

    files = sorted(directory.glob("app.log*"), key=lambda path: -int(path.suffix[1:].replace("log", "0")))
    read = []
    for path in files:
        data = path.read_bytes()
        assert data.startswith(opens)
        lines = data.decode(encoding)[len(header) + 1 if header else 0 :].splitlines()
        assert lines
        assert len(data) < limit or len(lines) == 1
        read += lines
    assert read == texts


# -- a callable ---------------------------------------------------------------


def test_callable_is_asked_when_a_file_is_begun(tmp_path: Path) -> None:
    header = Columns()
    handler = Strict(tmp_path / "app.log", maxBytes=8, backupCount=3, header=header)
    assert header.asked == 0
    write(handler, "aa")
    assert header.asked == 1
    handler.emit_batch([a_record("b"), a_record("cc"), a_record("dd")])

    assert contents(tmp_path) == {
        "app.log": "#3\ndd\n",
        "app.log.1": "#2\ncc\n",
        "app.log.2": "#1\naa\nb\n",
    } or contents(tmp_path) == {
        "app.log": "#4\ndd\n",
        "app.log.1": "#3\ncc\n",
        "app.log.2": "#2\nb\n",
        "app.log.3": "#1\naa\n",
    }


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda: 1 / 0, ZeroDivisionError),
        (lambda: b"time,text", TypeError),
        (lambda: None, TypeError),
        (lambda: "x" * 19, ValueError),
    ],
)
@pytest.mark.parametrize("way", ["emit", "batch"])
def test_callable_that_fails_costs_no_record_and_is_told_once(
    tmp_path: Path, wrong: Any, error: type[Exception], way: str
) -> None:
    """Also a text that would leave no room for a record, and push the backups out one record at a time."""
    handler = Recording(tmp_path / "app.log", maxBytes=20, backupCount=3, encoding="utf-8-sig", header=wrong)
    records = [a_record("x" * 14), a_record("y" * 14)]
    for record in [*records, *records]:
        handler.handle(record) if way == "emit" else handler.emit_batch([record])

    assert [type(each) for _, each in handler.failures] == [error]
    assert contents(tmp_path, "utf-8-sig") == {
        "app.log": "y" * 14 + "\n",
        "app.log.1": "x" * 14 + "\n",
        "app.log.2": "y" * 14 + "\n",
        "app.log.3": "x" * 14 + "\n",
    }
    assert (tmp_path / "app.log").read_bytes().startswith(b"\xef\xbb\xbf")


def test_callable_that_fails_again_after_a_success_is_told_again(tmp_path: Path) -> None:
    answers = iter(["#1", None, None, "#2", None])
    handler = Recording(tmp_path / "app.log", maxBytes=8, backupCount=9, header=lambda: next(answers))
    write(handler, "aaa", "bbb", "ccc", "ddd", "eee")

    assert len(handler.failures) == 2


@pytest.mark.parametrize("way", ["emit", "batch"])
def test_callable_that_logs(tmp_path: Path, way: str) -> None:
    """What it logs itself comes before the header, which is there once; nothing is lost, nobody waits."""

    def header() -> str:
        write(handler, "inside")
        return HEADER

    handler = Strict(tmp_path / "app.log", maxBytes=60, backupCount=3, header=header)
    if way == "emit":
        write(handler, "one", "two")
    else:
        handler.emit_batch([a_record("one"), a_record("two")])
    handler.doRollover()
    write(handler, "three")

    assert contents(tmp_path) == {
        "app.log": "inside\ntime,text\nthree\n",
        "app.log.1": "inside\ntime,text\none\ntwo\n",
    }


def test_callable_that_logs_through_a_second_handler_of_the_same_log(tmp_path: Path) -> None:
    def header() -> str:
        write(second, "inside")
        return HEADER

    first = Strict(tmp_path / "app.log", header=header)
    second = Strict(tmp_path / "app.log", header=header)
    write(first, "one")

    lines = contents(tmp_path)["app.log"].splitlines()
    assert sorted(lines) == sorted(["inside", "inside", HEADER, "one"]) or lines.count(HEADER) == 1
    assert "one" in lines
    assert "inside" in lines


def test_callable_that_rotates_closes_or_moves_the_log(tmp_path: Path) -> None:
    def header() -> str:
        actions.pop()()
        return HEADER

    handler = Strict(tmp_path / "app.log", backupCount=9, header=header)
    actions: list[Callable[[], object]] = [
        handler.doRollover,
        handler.close,
        lambda: os.unlink(tmp_path / "app.log"),
        lambda: os.close(handler._live.fd),
    ]
    for number in range(4):
        write(handler, str(number))
        os.rename(tmp_path / "app.log", tmp_path / str(number))

    assert not actions
    for number in range(4):
        assert contents(tmp_path)[str(number)] == f"time,text\n{number}\n"


@posix
def test_callable_that_forks(tmp_path: Path) -> None:
    """A child that ends there, a program that is started there."""

    def header() -> str:
        in_a_fork(lambda: None)
        os.system("exit 0")
        return HEADER

    write(Strict(tmp_path / "app.log", header=header), "one", "two")

    assert contents(tmp_path) == {"app.log": "time,text\none\ntwo\n"}


@posix
def test_callable_that_forks_a_child_that_logs(tmp_path: Path) -> None:
    """The child cannot have the lock, which the parent holds: its record comes, without a header."""

    def header() -> str:
        in_a_fork(lambda: write(handler, "child"))
        return HEADER

    handler = Recording(tmp_path / "app.log", header=header, lock_timeout=0.1)
    write(handler, "one", "two")

    assert not handler.failures
    lines = contents(tmp_path)["app.log"].splitlines()
    assert [line for line in lines if line != HEADER] == ["child", "one", "two"]


@posix
def test_interrupt_in_the_callable_leaves_it_to_the_next_record(tmp_path: Path) -> None:
    answers: list[Any] = [HEADER, KeyboardInterrupt()]

    def header() -> str:
        answer = answers.pop()
        if isinstance(answer, str):
            return answer
        raise answer

    handler = Strict(tmp_path / "app.log", header=header)
    with pytest.raises(KeyboardInterrupt):
        write(handler, "one")
    write(handler, "two")

    assert contents(tmp_path) == {"app.log": "time,text\ntwo\n"}


# -- between any two bytecodes ------------------------------------------------


def _at_each_step_of(action: Callable[[], object], intrude: Callable[[], object], step: int) -> bool:
    """Do *action*, and *intrude* before its bytecode number *step* in our package; tells whether there was one."""
    seen = 0
    done = False

    def trace(frame: Any, event: str, _argument: Any) -> Any:
        nonlocal seen, done
        if "concurrent_log_handler" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not done:
            seen += 1
            if seen == step:
                done = True
                sys.settrace(None)
                try:
                    intrude()
                finally:
                    sys.settrace(trace)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return done


@pytest.mark.skipif(on_wine, reason="a look at each bytecode takes minutes there")
@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("fixed", [True, False], ids=["text", "callable"])
@pytest.mark.parametrize("way", ["emit", "batch"])
def test_signal_handler_that_logs_between_any_two_bytecodes(tmp_path: Path, way: str, fixed: bool) -> None:
    """While the first record of a file is written: the header is there once, whichever of the two brings it."""
    headers = Columns()
    for step in count(1):
        log = tmp_path / f"{step}.log"
        handler = Strict(log, header="#" if fixed else headers)
        if way == "emit":
            action = partial(write, handler, "one")
        else:
            action = partial(handler.emit_batch, [a_record("one"), a_record("two")])
        came = _at_each_step_of(action, partial(write, handler, "inner"), step)
        write(handler, "last")
        handler.close()
        if not came:
            break
        lines = log.read_text().splitlines()
        assert sum(line.startswith("#") for line in lines) == 1, (step, lines)
        wanted = ["inner", "last", "one"] + ["two"] * (way == "batch")
        assert sorted(line for line in lines if not line.startswith("#")) == wanted, (step, lines)
        log.unlink()
    assert step > 200


# -- processes ----------------------------------------------------------------


PREPARED = """
import gzip, json, multiprocessing
from pathlib import Path

HEADER = "#Version: 1.0\\n#Fields: writer number filler checksum\\n"

def opened(**options):
    return open_log(**{"header": HEADER, **options})

def look(expected, perhaps=(), torn=0):
    # Each file has the header once, first; the records are what was acknowledged.
    for name, data in files_of(Path("logs")):
        text = data.decode(errors="replace")  # a record may be cut in the middle of a character
        assert text.startswith(HEADER) or not text, (name, text[:200])
        assert text.count("#Version") == text.count("#Fields") == bool(text), (name, text[:200])
    whole, damaged = records_of(Path("logs"))
    others = [line for line in damaged if "'#Version" not in line and "'#Fields" not in line]
    assert len(others) <= torn, others
    counted = sorted(whole)
    assert len(set(counted)) == len(counted), counted
    wanted = {(writer, number) for writer, numbers in expected.items() for number in numbers}
    assert wanted <= set(counted) <= wanted | set(perhaps), (wanted ^ set(counted))
"""


@posix
@pytest.mark.parametrize("gzip_too", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_begin_files_together(tmp_path: Path, method: str, gzip_too: bool) -> None:
    """All come to the first file at once, and each begins many of those that follow."""
    run_program(
        PREPARED
        + f"""
def work(name, barrier):
    handler = opened(maxBytes=1200, use_gzip={gzip_too})
    barrier.wait(30)
    write(handler, name, range(100))
    handler.emit_batch([a_record(text_of(name, number)) for number in range(100, 200)])
    handler.close()
    assert not handler.failures, handler.failures

if __name__ == "__main__":
    context = multiprocessing.get_context("{method}")
    barrier = context.Barrier(4)
    workers = [context.Process(target=work, args=(f"w{{n}}", barrier)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0, worker.exitcode
    look({{f"w{{n}}": range(200) for n in range(4)}})
    assert len(files_of(Path("logs"))) > 10
""",
        tmp_path,
    )


@posix
@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("half", [False, True], ids=["after the step", "half-way through writes"])
@pytest.mark.parametrize("way", ["emit", "batch", "gzip"])
def test_killed_after_each_single_step(memory: Path, way: str, half: bool) -> None:
    """Among the steps: a file made and nothing written to it, and half a header.  Then a healthy process carries on."""
    output = run_program(
        "steps = Steps()\n"
        "steps.counted -= {'flock', 'close', 'fchmod', 'fchown', 'utime', 'fsync'}  # what changes no content\n"
        + PREPARED
        + f"""
options = dict(maxBytes=300, backupCount=50, use_gzip={way == "gzip"})
def work(handler, acknowledge):
    for number in range(0, 8, 4 if {way == "batch"} else 1):
        if {way == "batch"}:
            handler.emit_batch([a_record(text_of("victim", number + each)) for each in range(4)])
            number += 3
        else:
            write(handler, "victim", [number])
        acknowledge(number)
died = 0
for numbers, names in killed_after_each_step(steps, lambda: opened(**options), work, {half}):
    top = numbers[-1] + 1 if numbers else 0
    died += 1
    try:
        look({{"victim": range(top), "healthy": range(8)}},
             [("victim", n) for n in range(top, 8)], torn={int(half)})
    except AssertionError as error:
        raise AssertionError(f"killed after step {{died}}") from error
print(died, names)
""",
        memory,
    )

    steps, *names = output.split()
    assert int(steps) > 10
    assert "rename" in names


@posix
def test_killed_between_creating_and_writing(tmp_path: Path) -> None:
    """The plainest case: the file is there, and empty."""
    run_program(
        PREPARED
        + """
def victim():
    class Dying(type(opened())):
        def shouldRollover(self, record):
            os.kill(os.getpid(), signal.SIGKILL)
    handler = Dying("logs/app.log", header=HEADER)
    write(handler, "victim", [0])
[status] = join(start(victim))
assert os.WTERMSIG(status) == signal.SIGKILL
assert Path("logs/app.log").read_bytes() == b""
write(opened(), "healthy", [0])
look({"healthy": [0]})
""",
        tmp_path,
    )


@posix
@pytest.mark.parametrize("cut", range(1, len("#a\n#b\n")))
@pytest.mark.parametrize("way", ["locked", "apart"])
def test_header_cut_short_is_completed(tmp_path: Path, cut: int, way: str) -> None:
    """A power failure may leave any part of it, also one that ends with a line."""
    (tmp_path / "app.log").write_text("#a\n#b\n"[:cut])
    handler = Strict(tmp_path / "app.log", header="#a\n#b")
    write(handler, "one") if way == "locked" else handler._live.append_apart(b"one\n")

    assert contents(tmp_path) == {"app.log": "#a\n#b\none\n"}


@posix
def test_record_without_the_lock_begins_the_file_too(tmp_path: Path) -> None:
    """Another process is stuck with the lock, and the file is empty."""
    output = run_program(
        PREPARED
        + """
ready, told = os.pipe()
def stuck():
    class Stuck(type(opened())):
        def shouldRollover(self, record):
            os.write(told, b"x")
            time.sleep(60)
    write(Stuck("logs/app.log", header=HEADER), "stuck", [0])
child = start(stuck)
os.read(ready, 1)
handler = opened(lock_timeout=0.1)
write(handler, "free", range(3))
print(*[type(each).__name__ for each in handler.failures])
os.kill(child, signal.SIGKILL)
join(child)
write(handler, "free", range(3, 6))
look({"free": range(6)})
""",
        tmp_path,
    )

    assert output.split() == ["LockTimeoutError"]


@posix
def test_holder_that_is_stuck_in_the_callable_writes_no_second_header(tmp_path: Path) -> None:
    """Others have begun the file meanwhile, without the lock."""
    run_program(
        PREPARED
        + """
ready, told = os.pipe()
go, gone = os.pipe()
def slow():
    os.write(told, b"x")
    os.read(go, 1)
    return HEADER
def stuck():
    handler = opened(header=slow)
    write(handler, "stuck", [0])
    assert not handler.failures, handler.failures
child = start(stuck)
os.read(ready, 1)
handler = opened(lock_timeout=0.1)
write(handler, "free", range(3))
assert len(handler.failures) == 1
os.write(gone, b"x")
assert join(child) == [0]
look({"free": range(3), "stuck": [0]})
""",
        tmp_path,
    )


@posix
def test_threads_of_a_process_that_is_stuck_in_the_callable(tmp_path: Path) -> None:
    """They go on after `lock_timeout`; the header comes when it is there."""
    import threading

    asked, go = threading.Event(), threading.Event()

    def slow() -> str:
        asked.set()
        assert go.wait(30)
        return HEADER

    handler = Recording(tmp_path / "app.log", header=slow, lock_timeout=0.1)
    thread = threading.Thread(target=write, args=(handler, "one"))
    thread.start()
    assert asked.wait(30)
    write(handler, "two")
    go.set()
    thread.join(30)

    lines = contents(tmp_path)["app.log"].splitlines()
    assert sorted(lines) == sorted([HEADER, "one", "two"])
    assert len(handler.failures) == 1
