"""The handlers on Windows, as users have them there: several programs, an open editor, a killed one, odd paths.

Runs on Windows, and under Wine by `run.py` beside this file.
"""

from __future__ import annotations

import gzip
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable

import pytest

if os.name != "nt":
    pytest.skip("files of Windows", allow_module_level=True)

from handler_support import Recording, Strict, a_record, contents, write
from process_helpers import check
from windows_support import Program

PRELUDE = """\
import threading, time
from handler_support import Recording, Strict, a_record, write
from process_helpers import text_of
"""


def later() -> None:
    """Let the pause after a rotation that failed pass: 0.1 s at first, 5 s at most."""
    time.sleep(0.3)


# -- several processes -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"use_gzip": True}, {"use_gzip": True, "background_gzip": True}])
def test_processes_that_rotate_all_the_time_lose_nothing(
    tmp_path: Path, program: Callable[..., Program], options: dict[str, bool]
) -> None:
    """Each has the file open that another one renames."""
    logs = tmp_path / "logs"
    logs.mkdir()
    writers = [
        program(
            f"""
            handler = Strict("logs/app.log", maxBytes=4000, backupCount=900, encoding="utf-8", newline="\\n",
                             lock_timeout=40, **{options})
            meet()
            for number in range(150):
                handler.handle(a_record(text_of(sys.argv[1], number)))
            handler.close()
            """,
            name,
        )
        for name in "abc"
    ]
    for each in writers:
        each.met()
    for each in writers:
        each.go_on()
    for each in writers:
        each.end()

    check(logs, {name: range(150) for name in "abc"}, max_bytes=4000)


@pytest.mark.slow
@pytest.mark.parametrize("gz", [False, True])
def test_killed_processes_cost_no_acknowledged_record(
    tmp_path: Path, program: Callable[..., Program], gz: bool
) -> None:
    """TerminateProcess at a random moment, again and again, while others go on."""
    logs = tmp_path / "logs"
    logs.mkdir()
    source = f"""
        handler = Strict("logs/app.log", maxBytes=3000, backupCount=900, encoding="utf-8", newline="\\n",
                         lock_timeout=40, use_gzip={gz})
        for number in range(100_000):
            handler.handle(a_record(text_of(sys.argv[1], number)))
            print(number, flush=True)
            if number == int(sys.argv[2]):
                break
        """
    survivor = program(source, "s", 150)
    acknowledged: dict[str, int] = {}
    for number in range(6):
        name = f"k{number}"
        victim = program(source, name, 100_000)
        for _ in range(3 + 11 * number):
            victim.met()
        victim.process.kill()
        said = victim.process.communicate()[0].split()
        acknowledged[name] = int(said[-1]) if said else 2 + 11 * number
    survivor.end()
    last = Strict(
        logs / "app.log", maxBytes=3000, backupCount=900, encoding="utf-8", newline="\n", use_gzip=gz
    )
    last.doRollover()
    last.close()

    check(
        logs,
        {"s": range(151), **{name: range(number + 1) for name, number in acknowledged.items()}},
        perhaps=[(name, number + 1) for name, number in acknowledged.items()],
        torn=6,
        tidy=False,
        both_forms=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("background", [False, True])
def test_nobody_waits_while_a_backup_is_compressed(
    tmp_path: Path, program: Callable[..., Program], background: bool
) -> None:
    """Compression comes after the lock is released; a bystander's worst record takes a tenth of its time at most."""
    data = b"".join(b"%d %d\n" % (n, n * n * n) for n in range(1_200_000))
    assert len(data) > 30_000_000
    options = {"maxBytes": 60_000_000, "backupCount": 9, "use_gzip": True, "lock_timeout": 40}
    shares = []
    while len(shares) < 3 and min(shares, default=1) > 0.1:  # others may need the machine for a moment
        (tmp_path / "app.log").write_bytes(data)
        bystander = program(
            f"""
            handler = Strict("app.log", **{options})
            write(handler, "bystander")
            go_on = threading.Event()
            threading.Thread(target=lambda: (sys.stdin.readline(), go_on.set())).start()
            print("here", flush=True)
            worst = 0.0
            while not go_on.wait(0.002):
                began = time.perf_counter()
                write(handler, "bystander")
                worst = max(worst, time.perf_counter() - began)
            handler.close()
            print(worst)
            """
        )
        handler = Strict(tmp_path / "app.log", background_gzip=background, **options)  # type: ignore[arg-type]
        bystander.met()

        began = time.perf_counter()
        handler.doRollover()
        handler.close()
        took = time.perf_counter() - began

        shares.append(float(bystander.end()) / took)
        assert (tmp_path / f"app.log.{len(shares)}.gz").exists()

    print(f"the worst wait, as a share of the compression's time: {min(shares):.3f}")
    assert min(shares) <= 0.1, shares


# -- foreign programs --------------------------------------------------------------


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_open_editor_delays_a_rotation_and_no_record(
    tmp_path: Path, program: Callable[..., Program], gz: str
) -> None:
    """It shares no deletion: told once, and the chain is whole when it lets go."""
    handler = Recording(tmp_path / "app.log", maxBytes=12, backupCount=3, use_gzip=bool(gz))
    write(handler, "aaaa")
    editor = program('file = open("app.log")\nmeet()')
    editor.met()
    write(handler, "bbbb", "cccc")
    assert [type(error) for _, error in handler.failures] == [PermissionError]
    editor.end()
    later()
    write(handler, "dddd")
    handler.close()

    assert len(handler.failures) == 1
    assert contents(tmp_path) == {"app.log": "dddd\n", f"app.log.1{gz}": "aaaa\nbbbb\ncccc\n"}


def test_viewer_of_a_backup_delays_its_compression_only(
    tmp_path: Path, program: Callable[..., Program]
) -> None:
    handler = Recording(tmp_path / "app.log", maxBytes=12, backupCount=5)
    write(handler, "aaaa", "bbbb")
    viewer = program('file = open("app.log.1")\nmeet()')
    viewer.met()
    handler.use_gzip = True
    later()
    write(handler, "cccc")
    assert sorted(contents(tmp_path).values()) == ["aaaa\n", "bbbb\ncccc\n"]
    viewer.end()
    later()
    write(handler, "dddd", "eeee")
    handler.close()

    assert contents(tmp_path) == {
        "app.log": "eeee\n",
        "app.log.1.gz": "dddd\n",
        "app.log.2.gz": "bbbb\ncccc\n",
        "app.log.3.gz": "aaaa\n",
    }


def test_idle_process_that_has_an_old_backup_open_blocks_nobody(
    tmp_path: Path, program: Callable[..., Program]
) -> None:
    """It logged once and sleeps; its file is `.1`, then `.2`, then gone."""
    idle = program(
        """
        handler = Strict("app.log", maxBytes=12, backupCount=2)
        write(handler, "idle")
        meet()
        write(handler, "woken")
        """
    )
    idle.met()
    handler = Strict(tmp_path / "app.log", maxBytes=12, backupCount=2)
    write(handler, "aaaa", "bbbb", "cccc", "dddd")
    shown = {name: text for name, text in contents(tmp_path).items() if not name.endswith(".gone")}
    assert shown == {"app.log": "dddd\n", "app.log.1": "cccc\n", "app.log.2": "bbbb\n"}
    idle.end()
    handler.close()

    assert contents(tmp_path) == {"app.log": "woken\n", "app.log.1": "dddd\n", "app.log.2": "cccc\n"}


# -- what a backup leads to ----------------------------------------------------------


@pytest.mark.parametrize("gz", [False, True])
def test_each_backup_is_told_of_once_and_leaves_no_mark(tmp_path: Path, gz: bool) -> None:
    told: list[str] = []
    handler = Strict(tmp_path / "app.log", maxBytes=12, backupCount=9, use_gzip=gz, on_rotated=told.append)
    write(handler, "aaaa", "bbbb", "cccc", "dddd")
    handler.close()

    suffix = ".gz" if gz else ""
    assert told == [str(tmp_path / f"app.log.1{suffix}")] * 3
    assert not [
        name for name in os.listdir(tmp_path) if name.startswith(".__") and not name.endswith(".lock")
    ]


def test_compression_goes_on_where_a_kill_left_both_forms(tmp_path: Path) -> None:
    """The plain one lies beside its own `.gz`: one of them goes, and the others are compressed."""
    (tmp_path / "app.log.1").write_bytes(b"twice\n")
    (tmp_path / "app.log.1.gz").write_bytes(gzip.compress(b"twice\n"))
    (tmp_path / "app.log.2").write_bytes(b"plain\n")
    handler = Strict(tmp_path / "app.log", maxBytes=12, backupCount=9, use_gzip=True)
    write(handler, "aaaa", "bbbb")
    handler.close()

    assert contents(tmp_path) == {
        "app.log": "bbbb\n",
        "app.log.1.gz": "aaaa\n",
        "app.log.2.gz": "twice\n",
        "app.log.3.gz": "plain\n",
    }


# -- the cost of a record --------------------------------------------------------------


def test_usual_record_opens_nothing_and_asks_for_no_status(tmp_path: Path) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=1_000_000, backupCount=3)
    write(handler, "one", "two")
    calls: Counter[str] = Counter()

    def profile(_: object, event: str, called: Any) -> None:
        if event == "c_call":
            calls[getattr(called, "__name__", "")] += 1

    record = a_record("three")
    sys.setprofile(profile)
    handler.handle(record)
    sys.setprofile(None)
    handler.close()

    assert not {"open", "stat", "lstat", "fstat", "close"} & set(calls), calls
    assert calls["write"] == 1


# -- paths and text ---------------------------------------------------------------------


def test_path_longer_than_windows_admits(tmp_path: Path) -> None:
    folder = tmp_path
    while len(str(folder)) < 300:
        folder /= "x" * 90
        os.mkdir(f"\\\\?\\{folder}")
    handler = Strict(folder / "app.log", maxBytes=12, backupCount=2, use_gzip=True)
    write(handler, "aaaa", "bbbb", "cccc")
    handler.close()

    there = contents(Path(f"\\\\?\\{folder}"))
    assert there == {"app.log": "cccc\n", "app.log.1.gz": "bbbb\n", "app.log.2.gz": "aaaa\n"}


def test_nul_swallows_everything() -> None:
    handler = Recording("NUL")
    write(handler, "one", "two")
    handler.close()

    assert handler.failures == []


def test_one_log_in_two_spellings_has_one_sidecar(tmp_path: Path) -> None:
    small, capital = Strict(tmp_path / "app.log"), Strict(tmp_path / "APP.LOG")
    write(small, "one")
    write(capital, "two")
    assert small.lock is capital.lock
    small.close()
    capital.close()

    assert contents(tmp_path) == {"app.log": "one\ntwo\n"}
    assert [name for name in os.listdir(tmp_path) if name.endswith(".lock")] == [".__app.lock"]


def test_bare_line_feed_is_the_end_of_a_record(tmp_path: Path) -> None:
    """Written by a program that asks for `newline="\\n"`, or was copied from elsewhere."""
    (tmp_path / "app.log").write_bytes(b"theirs\n")
    handler = Strict(tmp_path / "app.log")
    write(handler, "ours")
    handler.close()

    assert (tmp_path / "app.log").read_bytes() == b"theirs\nours\r\n"


def test_record_is_written_where_no_lock_can_be_had(tmp_path: Path) -> None:
    """Somebody has the sidecar for himself alone: told once."""
    (tmp_path / ".__app.lock").touch()
    with open(tmp_path / ".__app.lock", "r+b") as sidecar:
        import msvcrt

        msvcrt.locking(sidecar.fileno(), msvcrt.LK_NBLCK, 0x10000)
        handler = Recording(tmp_path / "app.log", lock_timeout=0.1)
        write(handler, "one", "two")
        sidecar.seek(0)
        msvcrt.locking(sidecar.fileno(), msvcrt.LK_UNLCK, 0x10000)
    write(handler, "three")
    handler.close()

    assert len(handler.failures) == 1
    assert contents(tmp_path) == {"app.log": "one\ntwo\nthree\n"}
