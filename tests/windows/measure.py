"""What a record costs on Windows, beside the standard library's handler and the published package.

    python tests/windows/run.py --python 3.13 --program tests/windows/measure.py

Each subject logs in a process of its own, in turns, so that all of them meet the same noise; the best
round is what the code costs.  Then the system's calls for one usual record are counted.  Wine's times are
not those of Windows; the ratios and the counts tell.
"""

from __future__ import annotations

import argparse
import logging
import logging.handlers
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from typing import Any

SUBJECTS = ("standard library", "this package", "published 0.9.31")
PUBLISHED = r"C:\beside\clh"
COUNTED = 50


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--records", type=int, default=100, help="of each round (default: 100)")
    parser.add_argument("--worker", choices=SUBJECTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.records)
        return
    rounds: dict[str, list[float]] = {subject: [] for subject in SUBJECTS}
    workers = {subject: start(subject, options.records) for subject in SUBJECTS}
    for _ in range(options.rounds):
        for subject, worker in workers.items():
            rounds[subject].append(float(answer(worker)))
    counts = {subject: answer(worker, "count") for subject, worker in workers.items()}
    for worker in workers.values():
        assert worker.stdin is not None
        worker.stdin.close()
        worker.wait(30)
    report(rounds, counts)


def start(subject: str, records: int) -> subprocess.Popen[str]:
    environment = dict(os.environ)
    if subject == SUBJECTS[2]:
        environment["PYTHONPATH"] = PUBLISHED + os.pathsep + environment.get("PYTHONPATH", "")
    return subprocess.Popen(
        [sys.executable, __file__, "--worker", subject, "--records", str(records)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def answer(worker: subprocess.Popen[str], order: str = "round") -> str:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(order + "\n")
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        sys.exit(f"a worker ended with {worker.wait(10)}")
    return line.strip()


def report(rounds: dict[str, list[float]], counts: dict[str, str]) -> None:
    base = min(rounds[SUBJECTS[0]])
    published = min(rounds[SUBJECTS[2]])
    print(f"{'':18} {'best':>9} {'median':>9}   of the standard library   of 0.9.31")
    for subject, times in rounds.items():
        best = min(times)
        figures = f"{best * 1e6:6.1f} us {statistics.median(times) * 1e6:6.1f} us"
        print(f"{subject:18} {figures} {best / base:18.1f} x {best / published:14.2f} x")
    print("\ncalls for one record")
    for subject, count in counts.items():
        print(f"{subject:18} {count}")


# -- one subject -------------------------------------------------------------------


def work(subject: str, records: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        handler = handler_of(subject, os.path.join(directory, "app.log"))
        logger = logging.getLogger("measured")
        logger.propagate = False
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        log = logger.info
        for _ in range(20):
            log("x" * 80)
        for line in sys.stdin:
            if line.strip() == "count":
                print(calls_of(log), flush=True)
                continue
            began = time.perf_counter()
            for _ in range(records):
                log("x" * 80)
            print((time.perf_counter() - began) / records, flush=True)
        logger.removeHandler(handler)
        handler.close()


def handler_of(subject: str, path: str) -> logging.Handler:
    kind: Any = logging.handlers.RotatingFileHandler
    if subject != SUBJECTS[0]:
        from concurrent_log_handler import ConcurrentRotatingFileHandler as kind
    return kind(path, maxBytes=100_000_000, backupCount=3)


def calls_of(log: Any) -> str:
    """Count the calls into C whose names are the system's, those through `ctypes` included."""
    seen: Counter[str] = Counter()
    wanted = {"stat", "lstat", "fstat", "open", "close", "read", "write", "lseek", "seek", "tell", "locking"}
    wanted |= {"LockFileEx", "UnlockFileEx", "rename", "replace", "unlink", "flush", "readinto", "FileIO"}

    class Counting:
        def __init__(self, library: Any) -> None:
            self._library = library

        def __getattr__(self, name: str) -> Any:
            seen[name] += 1
            return getattr(self._library, name)

    room = sys.modules.get("concurrent_log_handler._files")
    for library in ("_kernel32", "_ntdll"):
        if hasattr(room, library):
            setattr(room, library, Counting(getattr(room, library)))

    def profile(_: object, event: str, called: Any) -> None:
        if event == "c_call" and getattr(called, "__name__", "") in wanted:
            owner = getattr(called, "__module__", None) or type(called.__self__).__name__
            seen[f"{owner.lstrip('_')}.{called.__name__}"] += 1

    log("x" * 80)
    seen.clear()
    sys.setprofile(profile)
    for _ in range(COUNTED):
        log("x" * 80)
    sys.setprofile(None)
    return ", ".join(f"{number / COUNTED:g} {name}" for name, number in seen.most_common())


if __name__ == "__main__":
    main()
