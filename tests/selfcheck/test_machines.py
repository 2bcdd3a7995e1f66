"""The self-check on several machines: commands that share a directory, whole, interrupted, killed, and at odds."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from concurrent_log_handler.selfcheck._command import main
from concurrent_log_handler.selfcheck._meeting import Meeting, MeetingError
from concurrent_log_handler.selfcheck._report import show, show_json
from concurrent_log_handler.selfcheck._round import Result, Settings

SECONDS = 55
COMMAND = [sys.executable, "-m", "concurrent_log_handler"]
SMALL = ["--processes", "1", "--records", "200", "--max-bytes", "4 KiB", "--backup-count", "99"]

posix = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

# The first argument says what is special about this machine.
DRIVER = """
import errno, logging, os, sys
import portalocker.portalocker

if sys.argv[1] == "LocksApart":  # POSIX's locks and flock's do not meet on a local disk
    import fcntl

    portalocker.portalocker.LOCKER = fcntl.lockf
if sys.argv[1] == "LocksNothing":
    def no_lock(fd, flags):
        raise OSError(errno.ENOLCK, "No locks available")

    portalocker.portalocker.LOCKER = no_lock

from concurrent_log_handler import ConcurrentRotatingFileHandler
from concurrent_log_handler.selfcheck._command import main
from concurrent_log_handler.selfcheck._meeting import Meeting, MeetingError


class Drops(ConcurrentRotatingFileHandler):
    count = 0

    def emit(self, record):
        self.count += 1
        if self.count % 50:
            super().emit(record)


class Announces(ConcurrentRotatingFileHandler):
    told = False

    def emit(self, record):
        super().emit(record)
        if not self.told:
            self.told = True
            os.write(1, b"writing\\n")


class Told(ConcurrentRotatingFileHandler):
    def __init__(self, *arguments, shared_between_machines="nothing", **keywords):
        super().__init__(*arguments, **keywords)
        os.write(1, f"told {shared_between_machines}\\n".encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], globals().get(sys.argv[1], ConcurrentRotatingFileHandler), patience=5.0))
"""


@pytest.fixture
def driver(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("driver") / "driver.py"
    path.write_text(DRIVER, encoding="utf-8")
    return [sys.executable, str(path)]


@contextmanager
def machines(*commands: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start each command, and leave none behind."""
    started = [
        subprocess.Popen(
            each,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        for each in commands
    ]
    try:
        yield started
    finally:
        for each in started:
            each.kill()
            each.communicate(timeout=SECONDS)


def ends(*started: subprocess.Popen[str]) -> list[tuple[int, str, str]]:
    """Status, output and errors of each."""
    seen = [each.communicate(timeout=SECONDS) for each in started]
    return [(each.returncode, output, errors) for each, (output, errors) in zip(started, seen)]


def command(share: Path, *more: str, of: list[str] = COMMAND, count: int = 2) -> list[str]:
    return [*of, "--dir", str(share), "--machines", str(count), *SMALL, *more]


def wait_for_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for each in process.stdout:
        if each == line:
            return
    raise AssertionError(process.communicate(timeout=SECONDS))


# --- a run without trouble ---


def test_two_machines_find_each_other_and_leave_nothing(tmp_path: Path) -> None:
    """The same command twice; both count all that was written, by both."""
    (tmp_path / "app.log").write_text("mine")
    with machines(command(tmp_path), command(tmp_path)) as both:
        results = ends(*both)

    for status, output, errors in results:
        assert (status, errors) == (0, ""), output
        assert "A lock that one of them holds is refused to the others." in output
        assert "records written                            400" in output
        assert "Nothing wrong." in output
        assert output.count(", this one") == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"app.log": "mine"}


@pytest.mark.slow
def test_three_machines(tmp_path: Path) -> None:
    with machines(*[command(tmp_path, "--json", "--no-gzip", count=3)] * 3) as three:
        results = ends(*three)

    for status, output, errors in results:
        report = json.loads(output)
        assert (status, errors, output.count("\n")) == (0, "", 1), report
        assert (report["ok"], report["machines"], report["records"], report["lost"]) == (True, 3, 600, 0)
        assert report["rotations"] > 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_pairs_in_one_directory_do_not_mix(tmp_path: Path) -> None:
    with machines(*[command(tmp_path, "--json")] * 4) as four:
        results = ends(*four)

    assert [(status, errors) for status, _, errors in results] == [(0, "")] * 4, results
    assert [json.loads(output)["records"] for _, output, _ in results] == [400] * 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_who_leaves_is_heard_of_after_others_have_cleaned_up(tmp_path: Path) -> None:
    """Its last message is for its own run, however late that looks."""
    four = [Meeting(str(tmp_path), {"--machines": 2}, SECONDS, lambda: None) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: each.find_others(SECONDS), four))
        one = four[0]
        [partner] = [each for each in four if each.me in one.members and each is not one]
        strangers = [each for each in four if each.me not in one.members]
        leaving = [pool.submit(one.leave, "it was interrupted")]
        deadline = time.monotonic() + SECONDS
        while not strangers[0]._peers[one.me].says["left"]:
            assert time.monotonic() < deadline
            strangers[0].attend()
        gone = [pool.submit(each.leave, "it is done") for each in strangers]
        while not all(future.done() for future in gone):
            assert time.monotonic() < deadline
            partner._say()  # it is alive, but has not looked yet
            time.sleep(0.1)
        with pytest.raises(MeetingError, match="has left: it was interrupted"):
            partner.gather("the next step")
        leaving += [pool.submit(partner.leave, "it is done")]
        for future in leaving:
            future.result(SECONDS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_time_ends_the_writing_where_no_number_is_given(tmp_path: Path) -> None:
    options = ["--processes", "1", "--seconds", "2", "--max-bytes", "100 KiB", "--json"]
    with machines(*[[*COMMAND, "--dir", str(tmp_path), "--machines", "2", *options]] * 2) as both:
        results = ends(*both)

    for status, output, _ in results:
        report = json.loads(output)
        assert status == 0, report
        assert report["seconds"] < 20
        assert report["expired"] == report["lost"] == 0
    assert list(tmp_path.iterdir()) == []


# --- what does not work out ---


def test_machine_that_stays_alone_says_so(tmp_path: Path) -> None:
    with machines(command(tmp_path, "--wait", "1")) as alone:
        [(status, _, errors)] = ends(*alone)

    assert (status, errors.count("\n")) == (1, 1)
    assert "the other machine has not come within 1 s; give the same command on each machine" in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_other_options_are_a_mistake(tmp_path: Path) -> None:
    with machines(command(tmp_path), command(tmp_path, "--max-bytes", "8 KiB")) as both:
        results = ends(*both)

    for status, _, errors in results:
        assert (status, errors.count("\n")) == (2, 1)
        assert "was given other options: --max-bytes" in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_other_number_of_machines_is_named(tmp_path: Path) -> None:
    with machines(command(tmp_path, "--wait", "6"), command(tmp_path, "--wait", "6", count=3)) as both:
        (first, _, errors), (second, _, others) = ends(*both)

    assert (first, second) == (1, 1)
    assert "was given --machines 3" in errors or "was given --machines 2" in others
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.slow
@pytest.mark.parametrize(
    ("odd", "says"),
    [
        ("LocksApart", r"got the lock that machine . \(.*\) holds: this mount does not lock on the server"),
        ("LocksNothing", r"cannot lock files on this mount|cannot ask for the lock"),  # whoever is first
    ],
)
def test_lock_that_is_not_shared_is_found_out(tmp_path: Path, driver: list[str], odd: str, says: str) -> None:
    """As on a mount with `nolock`: each machine gets its lock, and nobody is told of the other's."""
    with machines(command(tmp_path), command(tmp_path, of=[*driver, odd])) as both:
        results = ends(*both)

    for status, output, errors in results:
        assert (status, errors) == (1, "")
        assert re.search(says, output), output
        assert "FAILED" in output
        assert "records written" not in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_loss_on_one_machine_is_seen_on_both(tmp_path: Path, driver: list[str]) -> None:
    with machines(command(tmp_path, "--json"), command(tmp_path, "--json", of=[*driver, "Drops"])) as both:
        results = ends(*both)

    for status, output, _ in results:
        report = json.loads(output)
        assert (status, report["ok"], report["records"], report["lost"]) == (1, False, 400, 4), report
        assert any("lost: record 50 of writer" in problem for problem in report["problems"])
    assert list(tmp_path.iterdir()) == []


# --- interrupted and killed ---


@posix
def test_interrupted_while_it_waits(tmp_path: Path) -> None:
    with machines(command(tmp_path)) as [process]:
        deadline = time.monotonic() + SECONDS
        while not list(tmp_path.glob("*/*-2")):  # its second message
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        [(status, _, errors)] = ends(process)

    assert (status, errors.count("\n")) == (130, 1)
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_they_write(tmp_path: Path, driver: list[str], number: signal.Signals) -> None:
    """The other machine is told, says so, and nothing is left."""
    options = ["--processes", "1", "--seconds", "40", "--records", "99999999", "--json"]
    line = [*driver, "Announces", "--dir", str(tmp_path), "--machines", "2", *options]
    with machines(line, line) as both:
        for each in both:
            wait_for_line(each, "writing\n")
        os.killpg(both[0].pid, number)
        (first, _, errors), (second, _, others) = ends(*both)

    assert (first, errors.count("\n")) == (130, 1)
    assert (second, others.count("\n")) == (1, 1)
    assert "has left: it was interrupted" in others
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.slow
@pytest.mark.chaos
def test_killed_while_they_write(tmp_path: Path, driver: list[str]) -> None:
    """Who is left notices, and cleans up after both."""
    options = ["--processes", "1", "--seconds", "40", "--records", "99999999", "--json"]
    line = [*driver, "Announces", "--dir", str(tmp_path), "--machines", "2", *options]
    with machines(line, line) as both:
        for each in both:
            wait_for_line(each, "writing\n")
        os.killpg(both[0].pid, signal.SIGKILL)
        [(status, _, errors)] = ends(both[1])

    assert (status, errors.count("\n")) == (1, 1), errors
    assert "has not been heard of for 5 s" in errors
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.slow
@pytest.mark.chaos
def test_what_killed_runs_left_is_no_hindrance_and_goes(tmp_path: Path, driver: list[str]) -> None:
    options = ["--processes", "1", "--seconds", "40", "--records", "99999999", "--json"]
    line = [*driver, "Announces", "--dir", str(tmp_path), "--machines", "2", *options]
    with machines(line, line) as both:
        for each in both:
            wait_for_line(each, "writing\n")
        for each in both:
            os.killpg(each.pid, signal.SIGKILL)
        for each in both:
            each.wait(SECONDS)
    assert len(list(tmp_path.glob("*/*-run"))) == 1

    with machines(*[command(tmp_path, "--json")] * 2) as both:
        results = ends(*both)
    assert [(status, json.loads(output)["records"]) for status, output, _ in results] == [(0, 400)] * 2
    assert list(tmp_path.iterdir()) == []


# --- the command line ---


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--machines", "2"], "needs --dir"),
        (["--machines", "1", "--dir", "."], "2 or more"),
        (["--machines", "two", "--dir", "."], "whole number"),
        (["--machines", "2", "--dir", ".", "--chaos"], "exclude each other"),
        (["--wait", "5"], "--machines"),
        (["--wait", "0"], "above 0"),
        (["--shared-between-machines", "perhaps"], "yes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(options)

    output, errors = capsys.readouterr()
    assert (ended.value.code, output, errors.count("\n")) == (2, "", 1)
    assert says in errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "told"),
    [([], "nothing"), (["auto"], "None"), (["yes"], "True"), (["no"], "False")],
)
def test_handler_is_told_what_the_user_knows_of_the_disk(
    tmp_path: Path, driver: list[str], options: list[str], told: str
) -> None:
    """Only if it is said; any other handler class may not know the keyword."""
    given = ["--shared-between-machines", *options] if options else []
    line = [*driver, "Told", "--dir", str(tmp_path), "--processes", "1", "--records", "5", *given]
    with machines(line) as one:
        [(status, output, _)] = ends(*one)

    assert status == 0
    assert f"told {told}\n" in output


def settings(**others: Any) -> Settings:
    plain: dict[str, Any] = {
        "directory": "/mnt/a share",
        "processes": 1,
        "records": 1,
        "seconds": None,
        "max_bytes": 100,
        "backup_count": 1,
        "gzip": True,
        "background_gzip": False,
        "chaos": False,
        "patience": 1.0,
        "handler_class": None,
    }
    return Settings(**{**plain, **others})


def test_check_of_one_machine_on_a_share_names_the_other_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The plain check on a share proves nothing about two machines; one line says so, and what would."""
    show(settings(shared="nfs4"), Result(rotations=1))
    note = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Note: ")]
    show(settings(), Result(rotations=1))
    assert "Note" not in capsys.readouterr().out
    show_json(settings(shared="nfs4"), Result())
    assert json.loads(capsys.readouterr().out)["shared_file_system"] == "nfs4"

    assert len(note) == 1
    assert "(nfs4)" in note[0]
    assert note[0].endswith("python -m concurrent_log_handler --dir '/mnt/a share' --machines 2")
