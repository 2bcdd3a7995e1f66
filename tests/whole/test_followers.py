"""Programs that read the log while it is written: `tail -F` and rsyslog's imfile over a hundred rotations.

Several processes write.  Where they wait for the follower after each file, which is what files of a
sensible size amount to, it must have every record once.  Where they rotate as fast as they can, a follower
by name may miss a file that was there for a moment only; what it prints must be whole.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Callable, ContextManager

import pytest

from concurrent_log_handler import ConcurrentRotatingFileHandler
from process_helpers import HERE, check, parse, text_of, wait_until, write

pytestmark = [pytest.mark.slow]

WRITERS = 3
ROUNDS = 140
IN_A_ROUND = 8
# No round fills a file, so there is at most one rotation in it.
MAX_BYTES = 1200
RSYSLOGD = shutil.which("rsyslogd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))

WRITER = """
import sys
from process_helpers import write
from concurrent_log_handler import ConcurrentRotatingFileHandler

name, max_bytes, backup_count, use_gzip = sys.argv[1], *map(int, sys.argv[2:])
handler = ConcurrentRotatingFileHandler(
    "logs/app.log", maxBytes=max_bytes, backupCount=backup_count, encoding="utf-8", use_gzip=bool(use_gzip)
)
for line in sys.stdin:
    first, last = map(int, line.split())
    write(handler, name, range(first, last))
    print("done", flush=True)
print(handler.num_rollovers)
"""


class Writers:
    """Processes that write when they are told to."""

    def __init__(self, directory: Path, max_bytes: int, backup_count: int, use_gzip: bool) -> None:
        self.names = [f"w{number}" for number in range(WRITERS)]
        self.written = 0
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, name, str(max_bytes), str(backup_count), str(int(use_gzip))],
                cwd=directory,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in self.names
        ]

    def write(self, count: int) -> None:
        """Have each write *count* more records, all at once."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(f"{self.written} {self.written + count}\n")
            process.stdin.flush()
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"
        self.written += count

    def end(self) -> int:
        """Return how often they rotated."""
        outputs = [process.communicate(timeout=20)[0] for process in self.processes]
        assert not any(process.returncode for process in self.processes)
        return sum(map(int, outputs))

    def kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.communicate(timeout=20)


@contextmanager
def tail(directory: Path, output: Path) -> Iterator[None]:
    command = ["tail", "-F", "--lines=+1", "logs/app.log"]
    with output.open("wb") as stream, (directory / "errors").open("wb") as errors:
        process = subprocess.Popen(command, cwd=directory, stdout=stream, stderr=errors)
    try:
        yield
        assert process.poll() is None, (directory / "errors").read_text()
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def rsyslog(directory: Path, output: Path) -> Iterator[None]:
    assert RSYSLOGD is not None
    (directory / "state").mkdir()
    configuration = directory / "rsyslog.conf"
    configuration.write_text(
        f"""
        global(workDirectory="{directory}/state" parser.escapeControlCharactersOnReceive="off")
        module(load="imfile")
        input(type="imfile" file="{directory}/logs/app.log" tag="shop" ruleset="shipped")
        template(name="line" type="string" string="%msg%\\n")
        ruleset(name="shipped") {{
            action(type="omfile" file="{output}" template="line" flushOnTXEnd="on")
        }}
        """
    )
    with (directory / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [RSYSLOGD, "-n", "-f", str(configuration), "-i", str(directory / "pid")],
            cwd=directory,
            stdout=errors,
            stderr=errors,
        )
    try:
        yield
        assert process.poll() is None, (directory / "errors").read_text()
    finally:
        process.terminate()
        process.wait(20)


Follower = Callable[[Path, Path], ContextManager[None]]
needs_tail = pytest.mark.skipif(shutil.which("tail") is None, reason="there is no tail here")
needs_rsyslog = pytest.mark.skipif(RSYSLOGD is None, reason="rsyslogd is not installed")
FOLLOWERS = [
    pytest.param(tail, id="tail", marks=needs_tail),
    pytest.param(rsyslog, id="rsyslog", marks=needs_rsyslog),
]


@contextmanager
def set_up(
    directory: Path, follower: Follower, max_bytes: int, backup_count: int, use_gzip: bool
) -> Iterator[tuple[Writers, Path]]:
    (directory / "logs").mkdir()
    (directory / "logs" / "app.log").touch()
    output = directory / "seen"
    output.touch()
    with ExitStack() as stack:
        writers = Writers(directory, max_bytes, backup_count, use_gzip)
        stack.callback(writers.kill)
        stack.enter_context(follower(directory, output))
        yield writers, output


def lines_of(output: Path) -> list[str]:
    return output.read_text(encoding="utf-8").split("\n")[:-1]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("use_gzip", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("follower", FOLLOWERS)
def test_follower_that_keeps_up_sees_every_record_once(
    follower: Follower, use_gzip: bool, tmp_path: Path
) -> None:
    """A rename with a new file, as every shipper expects it: nothing lost or repeated in a hundred of them."""
    with set_up(tmp_path, follower, MAX_BYTES, 3, use_gzip) as (writers, output):
        for _ in range(ROUNDS):
            writers.write(IN_A_ROUND)
            wait_until(
                lambda: output.read_bytes().count(b"\n") >= WRITERS * writers.written,
                what=f"{WRITERS * writers.written} records; {(tmp_path / 'errors').read_text()[-400:]}",
            )
        rotations = writers.end()

    assert rotations >= 100
    assert sorted(lines_of(output)) == sorted(
        text_of(name, number) for name in writers.names for number in range(writers.written)
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("follower", FOLLOWERS)
def test_follower_that_is_overtaken_sees_whole_records_and_goes_on(
    follower: Follower, tmp_path: Path
) -> None:
    """Files that live for a millisecond may be missed, and imfile reads one twice; no line is torn, the end is seen."""
    with set_up(tmp_path, follower, MAX_BYTES, 500, use_gzip=False) as (writers, output):
        writers.write(1200)
        rotations = writers.end()
        handler = ConcurrentRotatingFileHandler("logs/app.log", maxBytes=0, encoding="utf-8")
        write(handler, "last", range(3))
        handler.close()
        wait_until(lambda: text_of("last", 2) in lines_of(output), what="the last record")

    assert rotations >= 100
    check(tmp_path / "logs", {**{name: range(1200) for name in writers.names}, "last": range(3)})
    seen = defaultdict(list)
    for line in lines_of(output):
        record = parse(line)
        assert record is not None, f"torn: {line!r}"
        seen[record[0]].append(record[1])
    if follower is tail:
        assert all(numbers == sorted(set(numbers)) for numbers in seen.values())
