"""The self-check: run as a user runs it, and made to look at handlers and logs that are broken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from concurrent_log_handler import __version__
from concurrent_log_handler.selfcheck._command import main
from concurrent_log_handler.selfcheck._records import HEADER_BYTES

SECONDS = 50 if os.name == "posix" else 200  # Wine takes its time to start programs
COMMAND = [sys.executable, "-m", "concurrent_log_handler"]
SMALL = ["--processes", "2", "--records", "300", "--max-bytes", "4 KiB"]

posix = pytest.mark.skipif(os.name == "nt", reason="signals and terminals of POSIX, and its speed")


def run(*arguments: str, command: list[str] = COMMAND) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, encoding="utf-8", timeout=SECONDS, check=False
    )


def numbers(output: str) -> dict[str, str]:
    """The table: the number behind each name."""
    rows = (line.rsplit("  ", 1) for line in output.splitlines() if "  " in line)
    return {name.strip(): value.split()[0] for name, value in rows}


# --- a run without trouble ---


def test_default_handler_passes_and_nothing_is_left(tmp_path: Path) -> None:
    """The table names what was counted; piped, it has no live line; the directory is as before."""
    (tmp_path / "app.log").write_text("mine")
    result = run("--dir", str(tmp_path), *SMALL)

    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    table = numbers(result.stdout)
    assert table["records written"] == "600"
    for name in ("lost", "doubled", "torn", "out of order within one writer"):
        assert table[name] == "0"
    assert int(table["rotations"]) > 5
    assert 0 < int(table["largest file"].replace(",", "")) <= 4096
    assert table["limit (maxBytes)"] == "4,096"
    assert "\r" not in result.stdout
    assert "Nothing wrong." in result.stdout
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"app.log": "mine"}


def test_json_is_one_object_and_nothing_else(tmp_path: Path) -> None:
    result = run("--dir", str(tmp_path), "--json", *SMALL)

    report = json.loads(result.stdout)
    assert (result.returncode, result.stderr, result.stdout.count("\n")) == (0, "", 1), result.stdout
    assert report["ok"] is True
    assert report["problems"] == []
    assert (report["processes"], report["records"], report["max_bytes"]) == (2, 600, 4096)
    assert (report["lost"], report["doubled"], report["torn"], report["out_of_order"]) == (0, 0, 0, 0)
    assert report["rotations"] > 5
    assert report["records_per_second"] > 0
    assert report["slowest_call_ms"] > 0
    assert report["largest_file"] <= 4096
    assert report["version"] == __version__
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--no-gzip"], {"gzip": False, "background_gzip": False}),
        (["--gzip"], {"gzip": True, "background_gzip": False}),
        (["--background-gzip"], {"gzip": True, "background_gzip": True}),
        (["--processes", "3"], {"processes": 3, "records": 900}),
        (["--records", "100"], {"records": 200}),
        (["--max-bytes", "10 KB"], {"max_bytes": 10_000}),
        (["--header"], {"without_one_header": 0}),
        (["--header", "--max-bytes", str(HEADER_BYTES + 1), "--records", "50"], {"without_one_header": 0}),
        # With a file for each record a chain is soon long enough: logs are begun anew on the way.
        (["--max-bytes", "40"], {"max_bytes": 40, "records": 600, "rounds": 3}),
    ],
    ids=" ".join,
)
def test_option_is_heeded(tmp_path: Path, options: list[str], expected: dict[str, object]) -> None:
    result = run("--dir", str(tmp_path), "--json", *SMALL, *options)

    report = json.loads(result.stdout)
    assert result.returncode == 0, report
    assert {name: report[name] for name in expected} == expected


@pytest.mark.slow
@posix
def test_seconds_end_a_run_that_has_no_number_of_records(tmp_path: Path) -> None:
    options = ["--processes", "1", "--seconds", "2", "--max-bytes", "40", "--no-gzip"]
    result = run("--dir", str(tmp_path), "--json", *options)

    report = json.loads(result.stdout)
    assert result.returncode == 0, report
    assert report["lost"] == report["expired"] == 0


def test_what_retention_removed_is_not_lost(tmp_path: Path) -> None:
    result = run("--dir", str(tmp_path), "--json", *SMALL, "--backup-count", "1")

    report = json.loads(result.stdout)
    assert result.returncode == 0, report
    assert report["backup_count"] == 1
    assert report["expired"] > 300
    assert report["lost"] == 0


@pytest.mark.slow
@posix
def test_default_run_from_another_directory(tmp_path: Path) -> None:
    """No option at all; the children find the package although the working directory has none."""
    result = run()

    assert result.returncode == 0, result.stdout + result.stderr
    assert numbers(result.stdout)["records written"] == "80,000"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@posix
def test_terminal_sees_a_live_line(tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [*COMMAND, "--dir", str(tmp_path), "--processes", "2", "--records", "20000", "--no-gzip"]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not data:
                break
            shown += data
        assert process.wait(SECONDS) == 0, shown
        assert process.stderr is not None
        assert process.stderr.read() == b""
    os.close(ours)
    assert b" records, writing" in shown
    assert b"Nothing wrong." in shown


# --- what a user may type ---


@pytest.mark.parametrize(
    "options",
    [
        ["--max-bytes", "12x"],
        ["--max-bytes", "0"],
        ["--max-bytes", "-5"],
        ["--max-bytes"],
        ["--records", "0"],
        ["--records", "many"],
        ["--processes", "0"],
        ["--processes", "1.5"],
        ["--backup-count", "0"],
        ["--seconds", "0"],
        ["--seconds", "nan"],
        ["--seconds", "soon"],
        ["--dir", "not-there"],
        ["--no-gzip", "--background-gzip"],
        ["--header", "--max-bytes", str(HEADER_BYTES)],
        ["--unknown"],
        ["surplus"],
    ],
    ids=" ".join,
)
def test_bad_value_gets_one_line_and_status_2(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(options)

    output, errors = capsys.readouterr()
    assert (ended.value.code, output) == (2, "")
    assert errors.count("\n") == 1
    assert options[-1] in errors or options[0] in errors


def test_bad_value_on_a_real_command_line() -> None:
    result = run("--max-bytes", "ten")

    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert (
        "must be a number of bytes, 1 or more, or text such as '1 MB' or '512 KiB', got 'ten'"
        in result.stderr
    )


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_directory_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    result = run("--dir", str(tmp_path))

    assert result.returncode == 2
    assert "may not be written" in result.stderr


def test_help_has_examples_and_version_is_the_packages() -> None:
    assert "examples:" in run("--help").stdout
    assert run("--version").stdout == f"concurrent-log-handler {__version__}\n"


# --- interrupted ---

DRIVER = '''
import logging, os, sys, threading
from concurrent_log_handler import ConcurrentRotatingFileHandler
from concurrent_log_handler.selfcheck._command import main
from concurrent_log_handler.selfcheck._records import HEADER_BYTES


class Announces(ConcurrentRotatingFileHandler):
    """Tells whoever reads our output that it writes."""

    told = False

    def emit(self, record):
        super().emit(record)
        if not self.told:
            self.told = True
            os.write(1, b"writing\\n")


class Counts(ConcurrentRotatingFileHandler):
    count = 0

    def emit(self, record):
        self.count += 1
        if self.count % 100:
            super().emit(record)
        else:
            self.hundredth(record)


class Drops(Counts):
    def hundredth(self, record):
        pass


class Doubles(Counts):
    def hundredth(self, record):
        super().emit(record)
        super().emit(record)


class Tears(Counts):
    def hundredth(self, record):
        record.msg = record.msg[:10] + "\\n" + record.msg[10:]
        super().emit(record)


class Swaps(Counts):
    late = None

    def hundredth(self, record):
        if self.late is None:
            self.late = record
        else:
            ConcurrentRotatingFileHandler.emit(self, record)
            ConcurrentRotatingFileHandler.emit(self, self.late)
            self.late = None


class Grows(ConcurrentRotatingFileHandler):
    def __init__(self, filename, maxBytes, **others):
        super().__init__(filename, maxBytes=10 * maxBytes, **others)


class Complains(Counts):
    def hundredth(self, record):
        super().emit(record)
        try:
            raise OSError("the disk is tired")
        except OSError:
            self.handleError(record)


class Refuses(Counts):
    def hundredth(self, record):
        try:
            raise OSError("the disk is tired")
        except OSError:
            self.handleError(record)


class Dies(Counts):
    def hundredth(self, record):
        os._exit(3)


class Hangs(Counts):
    def hundredth(self, record):
        threading.Event().wait(60)


class Raises(Counts):
    def hundredth(self, record):
        raise RuntimeError("out of paper")


class Absent(ConcurrentRotatingFileHandler):
    def __init__(self, filename, **others):
        raise OSError("no such disk")


class Litters(ConcurrentRotatingFileHandler):
    def close(self):
        super().close()
        open(self.baseFilename + ".rotate.123", "w").close()


class Unpacked(ConcurrentRotatingFileHandler):
    def __init__(self, filename, use_gzip, **others):
        super().__init__(filename, use_gzip=False, **others)


if __name__ == "__main__":
    patience = 10.0 if sys.argv[1] == "Hangs" else 30.0  # a process may take seconds to start
    sys.exit(main(sys.argv[2:], globals()[sys.argv[1]], patience=patience))
'''


@pytest.fixture
def driver(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line of a program that checks the handler class named by its first argument."""
    path = tmp_path_factory.mktemp("driver") / "driver.py"
    path.write_text(textwrap.dedent(DRIVER), encoding="utf-8")
    return [sys.executable, str(path)]


def start_and_wait_until_it_writes(driver: list[str], directory: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [*driver, "Announces", "--dir", str(directory), "--seconds", "40"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == b"writing\n":
            return process
    raise AssertionError(process.communicate(timeout=SECONDS))


@posix
@pytest.mark.parametrize(
    ("number", "to_group"),
    [("SIGINT", False), ("SIGINT", True), ("SIGTERM", False), ("SIGTERM", True), ("SIGHUP", True)],
)
def test_interrupted_check_leaves_no_process_and_no_file(
    tmp_path: Path, driver: list[str], number: str, to_group: bool
) -> None:
    """The children hold our pipe open: its end is the proof that the last of them is gone."""
    process = start_and_wait_until_it_writes(driver, tmp_path)
    (os.killpg if to_group else os.kill)(process.pid, getattr(signal, number))

    _, errors = process.communicate(timeout=SECONDS)

    assert process.returncode == 130
    assert errors.decode().count("\n") == 1, errors.decode()
    assert "interrupted" in errors.decode()
    assert list(tmp_path.iterdir()) == []


def test_writers_end_when_their_parent_is_killed(tmp_path: Path, driver: list[str]) -> None:
    process = start_and_wait_until_it_writes(driver, tmp_path)
    process.kill()

    process.communicate(timeout=30)

    assert process.returncode == (-signal.SIGKILL if os.name == "posix" else 1)


@posix
def test_reader_that_goes_away_costs_no_traceback(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--dir", str(tmp_path), *SMALL], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()

    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(SECONDS) == 1
    process.stderr.close()
    assert list(tmp_path.iterdir()) == []


# --- the check can fail ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("handler", "wrong", "count", "says"),
    [
        ("Drops", "lost", 6, "lost: record 100 of writer 1"),
        ("Doubles", "doubled", 6, "doubled: record 100 of writer 1"),
        ("Tears", "torn", 12, "torn: "),
        ("Swaps", "out_of_order", 2, "out of order: record 100 of writer 1 after 200"),
        ("Grows", "over_limit", None, "over the limit: "),
        ("Complains", "handler_errors", 6, "OSError: the disk is tired"),
        ("Refuses", "handler_errors", 6, "OSError: the disk is tired"),
        ("Dies", None, None, "writer 1 died after 99 records with exit code 3"),
        ("Hangs", None, None, "writer 1 hangs: no record for 10 s after 99 records"),
        ("Raises", None, None, "writer 1 failed after 99 records: RuntimeError: out of paper"),
        ("Absent", None, None, "writer 1 failed after 0 records: OSError: no such disk"),
        ("Litters", None, None, "left in the directory: app.log.rotate.123"),
        ("Unpacked", None, None, "not compressed: app.log.1"),
    ],
)
def test_broken_handler_is_found_out(
    tmp_path: Path, driver: list[str], handler: str, wrong: str | None, count: int | None, says: str
) -> None:
    result = run(handler, "--dir", str(tmp_path), "--json", *SMALL, command=driver)

    report = json.loads(result.stdout)
    assert (result.returncode, report["ok"], result.stderr) == (1, False, "")
    assert any(says in problem for problem in report["problems"]), report["problems"]
    counters = {
        name: report[name]
        for name in ("lost", "doubled", "torn", "out_of_order", "over_limit", "handler_errors")
    }
    if wrong is not None:
        assert counters[wrong] == count or (count is None and counters[wrong] > 0), counters
    if handler not in ("Tears", "Swaps"):  # a torn record is a lost one, too
        assert not any(value for name, value in counters.items() if name != wrong), counters
    assert list(tmp_path.iterdir()) == []


def test_run_without_a_rotation_says_so(tmp_path: Path) -> None:
    result = run("--dir", str(tmp_path), "--processes", "1", "--records", "10")

    assert result.returncode == 0
    assert "none was rotated" in result.stdout


def test_failure_is_in_the_table(tmp_path: Path, driver: list[str]) -> None:
    result = run("Drops", "--dir", str(tmp_path), *SMALL, command=driver)

    assert result.returncode == 1
    assert numbers(result.stdout)["lost"] == "6"
    assert "! lost: record 100 of writer 1" in result.stdout
    assert "FAILED" in result.stdout


# --- chaos ---


@pytest.mark.slow
@pytest.mark.chaos
@posix
@pytest.mark.parametrize("packing", ["--gzip", "--no-gzip", "--background-gzip"])
def test_chaos_loses_nothing_that_was_acknowledged(tmp_path: Path, packing: str) -> None:
    """Writers killed and replaced, the sidecar deleted, the live file moved away, all at once."""
    result = run("--dir", str(tmp_path), "--json", "--chaos", "--seconds", "3", packing)

    report = json.loads(result.stdout)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    assert min(report["chaos"][name] for name in ("kills", "sidecars_deleted", "files_moved")) > 0
    assert list(tmp_path.iterdir()) == []


# --- what is shown ---


@pytest.mark.slow
def test_table_has_a_row_for_all_that_can_happen(tmp_path: Path, driver: list[str]) -> None:
    """Chaos, expiry and errors have rows of their own, only where they occur."""
    plain = run("--dir", str(tmp_path), *SMALL)
    expiring = run("--dir", str(tmp_path), *SMALL, "--backup-count", "1", "--chaos", "--processes", "1")
    complaining = run("Complains", "--dir", str(tmp_path), *SMALL, command=driver)

    chaotic = {"writers killed and replaced", "lock file deleted", "live file moved away", "empty lines"}
    assert not (chaotic | {"expired, as --backup-count says"}) & set(numbers(plain.stdout))
    assert chaotic | {"expired, as --backup-count says"} <= set(numbers(expiring.stdout))
    assert numbers(complaining.stdout)["errors reported by the handler"] == "6"
    assert (
        "! writer 1: 3 calls of handleError, the first for OSError: the disk is tired" in complaining.stdout
    )


def test_directory_that_cannot_be_used_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(**_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)

    assert main(["--json"]) == 1
    output, errors = capsys.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    assert "No space left on device" in errors


@posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is always full")
@pytest.mark.parametrize(("redirection", "status"), [(">&-", 0), (">/dev/full", 1)])
def test_output_that_cannot_be_written(redirection: str, status: int, tmp_path: Path) -> None:
    """One line at most, and the exit status still tells the result."""
    command = f'"$0" -m concurrent_log_handler --dir . --records 50 --processes 1 {redirection}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert len(done.stderr.splitlines()) == status, done.stderr
