"""Old and new at once: processes of the published 0.9.31 and of this package write one log.

That is what a deployment does that replaces one worker after the other.  The old ones are real: the
package from the registry, in a directory of its own, which stays in the user's cache.
"""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from process_helpers import HERE, check, parse

if sys.platform == "win32":
    pytest.skip(
        "an open file cannot be renamed there: old and new wait for each other", allow_module_level=True
    )

OURS = HERE.parent / "src"
SECONDS = 40

WORKER = """
import logging, os, sys, time
from process_helpers import a_record, text_of
import concurrent_log_handler as library

kind, packed, writer, old = sys.argv[1:]
assert hasattr(library.ConcurrentTimedRotatingFileHandler, "read_rollover_time") == (old == "old")
base = {"size": library.ConcurrentRotatingFileHandler, "timed": library.ConcurrentTimedRotatingFileHandler}[kind]

class Handler(base):
    def handleError(self, record):
        raise

options = {"encoding": "utf-8", "maxBytes": 1500, "use_gzip": packed == "gz"}
if kind == "size":
    handler = Handler("app.log", backupCount=900, **options)
else:
    handler = Handler("app.log", when="S", **options)
print("ready", flush=True)
until = time.monotonic() + float(sys.stdin.readline())
number = 0
while number < 250 or (kind == "timed" and time.monotonic() < until):
    handler.handle(a_record(text_of(writer, number)))
    number += 1
    # In turns, and not so many that the timed ones fill the disk until the clock has moved on.
    time.sleep(0.0005 if kind == "size" else 0.005)
handler.close()
print(number, handler.num_rollovers)
"""


@pytest.fixture(scope="module")
def published() -> Path:
    sys.path.insert(0, str(HERE / "benchmarks"))
    try:
        import peers
    finally:
        sys.path.remove(str(HERE / "benchmarks"))
    try:
        return peers.directory_of(peers.CLH)
    except (peers.NotInstallableError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"the registry is out of reach: {error}")


def start(directory: Path, library: Path, *arguments: str) -> subprocess.Popen[str]:
    # Both get the portalocker that came with the old one; ours is found before its package.
    paths = [library, HERE] if arguments[-1] == "old" else [OURS, HERE, library]
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run_mixed(
    directory: Path, library: Path, kind: str, packed: str
) -> tuple[dict[str, range], Counter[str]]:
    """Two old writers and two new ones; returns what each acknowledged, and who rotated how often."""
    writers = {"old-1": "old", "new-1": "new", "old-2": "old", "new-2": "new"}
    running = {
        writer: start(directory, library, kind, packed, writer, age) for writer, age in writers.items()
    }
    written: dict[str, range] = {}
    rotations: Counter[str] = Counter()
    try:
        for process in running.values():
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in running.values():
            assert process.stdin is not None
            process.stdin.write("2.6\n")
            process.stdin.flush()
        for writer, process in running.items():
            output, _ = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, writer
            number, rolled = map(int, output.split())
            written[writer] = range(number)
            rotations[writers[writer]] += rolled
    finally:
        for process in running.values():
            if process.poll() is None:
                process.kill()
                process.communicate()
    return written, rotations


@pytest.mark.slow
@pytest.mark.parametrize("packed", ["plain", "gz"])
def test_size_handlers_of_both_versions_share_a_chain(tmp_path: Path, published: Path, packed: str) -> None:
    written, rotations = run_mixed(tmp_path, published, "size", packed)
    # The old one rotates after the record that passes the limit.
    check(tmp_path, written, max_bytes=1700, backup_count=900)
    assert all(written.values())
    assert (
        rotations["new"] >= 1
    )  # as a rule the old ones rotate, too; on a busy machine nobody can say who does
    numbers = sorted(int(path.name.split(".")[2]) for path in tmp_path.glob("app.log.*"))
    assert (
        numbers == list(range(1, len(numbers) + 1)) == list(range(1, rotations["old"] + rotations["new"] + 1))
    )
    assert {path.suffix == ".gz" for path in tmp_path.glob("app.log.*")} == {packed == "gz"}


@pytest.mark.slow
@pytest.mark.parametrize("packed", ["plain", "gz"])
def test_timed_handlers_of_both_versions_share_boundaries(
    tmp_path: Path, published: Path, packed: str
) -> None:
    written, rotations = run_mixed(tmp_path, published, "timed", packed)
    assert all(written.values())
    assert rotations["new"] >= 1
    found: Counter[tuple[str, int]] = Counter()
    periods = set()
    for path in tmp_path.iterdir():
        if path.name == ".__app.lock":
            continue
        match = re.fullmatch(r"app\.log(?:\.(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)(\.\d+)?(\.gz)?)?", path.name)
        assert match, path.name
        periods.add(match[1])
        data = path.read_bytes()
        text = (gzip.decompress(data) if match[3] else data).decode()
        assert bool(match[3]) == (packed == "gz" and match[1] is not None), path.name
        assert text.endswith("\n") or not text
        for line in text.splitlines():
            key = parse(line)
            assert key is not None, f"{path.name}: {line!r}"
            found[key] += 1
    expected = {(writer, number) for writer, numbers in written.items() for number in numbers}
    assert found == Counter(expected), f"lost {expected - set(found)}, more {found - Counter(expected)}"
    assert len(periods) >= 3, "a name for each second and the live file"
    assert re.fullmatch(r"\d{10}", (tmp_path / ".__app.lock").read_text())
