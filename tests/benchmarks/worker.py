"""One measured process: `worker.py MEASURE SUBJECT DIRECTORY OPTIONS`, driven by `run.py` line by line.

It builds its subject once, says so, and then measures one short round for each line on stdin, so
that `run.py` can take turns between the subjects many times a second.  Each answer is one line of
JSON: `{"ready": …}` or `{"unavailable": …}` first, then a dictionary of numbers per round.
All times are seconds.
"""

from __future__ import annotations

import gzip
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

from subjects import (
    UNREACHABLE,
    Files,
    QueuedLogging,
    UnavailableError,
    handler_for,
    logger_with,
    loguru_sink,
    version_of,
)

Round = dict[str, float]
HALF_MILLISECOND = 0.0005
THIRTY_MB = 30_000_000
TWO_HUNDRED_MB = 200_000_000
ANSWER_SECONDS = 90
# Enough for children to wake up and wait for the common moment.
HEAD_START = 0.01


def main() -> None:
    measure, subject, directory, options = sys.argv[1:]
    try:
        rounds = MEASURES[measure](subject, Path(directory), **json.loads(options))
        next(rounds)  # each measure yields once when it is set up
        _answer({"ready": version_of(subject)})
    except UnavailableError as error:
        _answer({"unavailable": str(error)})
        return
    for _ in sys.stdin:
        _answer(next(rounds))
    rounds.close()


def _answer(value: Any) -> None:
    print(json.dumps(value), flush=True)


# --- one process, no competition ---------------------------------------------------------------


def one(subject: str, directory: Path, records: int) -> Iterator[Round]:
    """CPU time per record of a process that has the log to itself."""
    info = logger_with(handler_for(subject, directory / "app.log", Files())).info
    messages = _messages(records)
    yield {}
    while True:
        _log_all(info, messages[:100])  # back into the caches after the others' turns
        start = time.process_time()
        _log_all(info, messages)
        yield {"cpu": (time.process_time() - start) / records}


def count(subject: str, directory: Path, records: int, texts: int) -> Iterator[Round]:
    """Log *records* in the set-up and nothing later: for a tool that counts instructions from outside."""
    info = logger_with(handler_for(subject, directory / "app.log", Files())).info
    _log_all(info, _messages(texts)[:records])
    yield {}


def _log_all(info: Callable[[str], None], messages: list[str]) -> None:
    for message in messages:
        info(message)


def _messages(number: int) -> list[str]:
    """Texts of exactly 80 characters that compress about as well as real logs do."""
    rng = random.Random(20)
    verbs = ("GET", "PUT", "POST", "DELETE")
    nouns = ("orders", "customers", "invoices", "sessions", "articles", "baskets")
    texts = []
    for _ in range(number):
        path = f"{rng.choice(verbs)} /api/{rng.choice(nouns)}/{rng.randrange(10**6)}"
        outcome = f"{rng.choice((200, 201, 404))} in {rng.random() * 900:.3f} ms"
        texts.append(f"{path} answered {outcome} for client {rng.getrandbits(64):016x}")
    return [f"{text:<80.80}" for text in texts]


# --- many processes ----------------------------------------------------------------------------


def many(subject: str, directory: Path, processes: int, records: int, **files: Any) -> Iterator[Round]:
    """Wall time per record while *processes* log at once, from the first start to the last record written."""
    path = directory / "app.log"
    sink = loguru_sink(path, "10 MB") if subject == "loguru" else None
    if sink is None:
        handler_for(subject, path, Files(**files)).close()  # unavailable: better here than in a child
    children = [
        _Child(_write_on_demand, subject, path, records, Files(**files), sink) for _ in range(processes)
    ]
    total = 0
    yield {}
    while True:
        begin = time.monotonic() + HEAD_START
        for child in children:
            child.pipe.send(begin)
        end = max(child.receive() for child in children)
        if sink is not None:
            sink.complete()
            end = time.monotonic()
        total += processes * records
        result = {"wall": (end - begin) / (processes * records)}
        if not files:  # small files have been pruned by now
            result["lost"] = total - _occurrences(directory, b" - INFO - ")
        yield result


def _write_on_demand(pipe: Any, subject: str, path: Path, records: int, files: Files, sink: Any) -> None:
    info = (sink or logger_with(handler_for(subject, path, files))).info
    messages = _messages(records)
    pipe.send(None)
    while True:
        begin = pipe.recv()
        time.sleep(max(0.0, begin - time.monotonic() - 0.002))
        while time.monotonic() < begin:
            pass
        _log_all(info, messages)
        pipe.send(time.monotonic())


class _Child:
    """A spawned process that runs `target(pipe, …)`; it is ready when the constructor returns."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_quietly, args=(target, theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()
        self.receive()

    def receive(self) -> Any:
        if not self.pipe.poll(ANSWER_SECONDS):
            msg = f"a child did not answer within {ANSWER_SECONDS} s"
            raise TimeoutError(msg)
        return self.pipe.recv()


def _quietly(target: Callable[..., None], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # run.py ends the whole group
    try:
        target(*arguments)
    except EOFError:  # the parent has closed its end: done
        os._exit(0)


# --- gzip ----------------------------------------------------------------------------------------


def gzip_wait(subject: str, directory: Path) -> Iterator[Round]:
    """One process rotates a 30 MB file with gzip; another logs every half millisecond and waits at worst …"""
    seed = _seed(directory, THIRTY_MB)
    setup = _LoguruRotation if subject == "loguru" else _HandlerRotation
    setup(subject, _fresh(directory, seed)).close()
    yield {}
    while True:
        path = _fresh(directory, seed)
        rotation = setup(subject, path)
        bystander = _Child(_log_every_half_millisecond, subject, path, rotation.for_children)
        time.sleep(0.05)
        start = time.perf_counter()
        rotation.run()
        call = time.perf_counter() - start
        _wait_until_packed(path)
        time.sleep(0.05)
        bystander.pipe.send("stop")
        worst, logged = bystander.receive()
        bystander.process.join(ANSWER_SECONDS)
        rotation.close()
        lost = logged - _occurrences(path.parent, b" bystander ")
        yield {"worst_wait": worst, "call": call, "lost": lost}


class _HandlerRotation:
    for_children = None

    def __init__(self, subject: str, path: Path) -> None:
        self._handler: Any = handler_for(subject, path, Files(UNREACHABLE, gzip=True))
        self._info = logger_with(self._handler).info
        self._info("warm")

    def run(self) -> None:
        self._handler.maxBytes = THIRTY_MB
        self._info("this record rotates")

    def close(self) -> None:
        self._handler.close()


class _LoguruRotation:
    def __init__(self, _subject: str, path: Path) -> None:
        self._due = False
        self.for_children = loguru_sink(path, self._is_due, compress=True)
        self.for_children.info("warm")

    def _is_due(self, _message: Any, _file: Any) -> bool:
        due, self._due = self._due, False
        return due

    def run(self) -> None:
        self._due = True
        self.for_children.info("this record rotates")

    def close(self) -> None:
        self.for_children.remove()


def _log_every_half_millisecond(pipe: Any, subject: str, path: Path, sink: Any) -> None:
    info = (sink or logger_with(handler_for(subject, path, Files(UNREACHABLE, gzip=True)))).info
    info("warm")
    pipe.send(None)
    worst, logged = 0.0, 0
    while not pipe.poll(0):
        time.sleep(HALF_MILLISECOND)
        start = time.perf_counter()
        info(" bystander ")
        worst = max(worst, time.perf_counter() - start)
        logged += 1
    if sink is not None:
        sink.complete()
    pipe.send((worst, logged))


def gzip_memory(subject: str, directory: Path) -> Iterator[Round]:
    """How far the resident memory rises above idle while a 200 MB file is compressed."""
    if not Path("/proc/self/clear_refs").exists():
        msg = "peak memory is read from /proc, which is missing here"
        raise UnavailableError(msg)
    seed = _seed(directory, TWO_HUNDRED_MB)
    yield {}
    while True:
        path = _fresh(directory, seed)
        rotation = _HandlerRotation(subject, path)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
        idle = _status("VmRSS")
        start = time.perf_counter()
        rotation.run()
        call = time.perf_counter() - start
        _wait_until_packed(path)
        rotation.close()
        yield {"memory": _status("VmHWM") - idle, "call": call}


def _status(field: str) -> int:
    """A memory figure of this process, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


# --- non-blocking set-ups -------------------------------------------------------------------------


def burst(subject: str, directory: Path, records: int) -> Iterator[Round]:
    """Wall time per record from the first call until a whole burst is in the file."""
    queued = QueuedLogging(subject, directory / "app.log", THIRTY_MB)
    messages = _messages(records)
    total = 0
    yield {}
    while True:
        start = time.perf_counter()
        _log_all(queued.logger.info, messages)
        queued.drain()
        wall = (time.perf_counter() - start) / records
        total += records
        yield {"wall": wall, "lost": total - _occurrences(directory, b" - INFO - ")}
        queued.start()


def latency(subject: str, directory: Path, records: int) -> Iterator[Round]:
    """What a call costs a thread that logs 2,000 times a second: median and 99th percentile."""
    queued = QueuedLogging(subject, directory / "app.log", THIRTY_MB)
    messages = _messages(records)
    yield {}
    while True:
        calls = sorted(_paced(queued.logger.info, messages))
        yield {"median": calls[records // 2], "p99": calls[records * 99 // 100]}


def latency_gzip(subject: str, directory: Path, records: int) -> Iterator[Round]:
    """The slowest call, and what was dropped, while the listener rotates a 30 MB file with gzip."""
    path = directory / "app.log"
    shutil.move(str(_seed(directory, THIRTY_MB)), path)
    with path.open("r+b") as file:
        file.truncate(THIRTY_MB - 100_000)  # the rotation comes about 0.4 s after the start
    queued = QueuedLogging(subject, path, THIRTY_MB)
    messages = [f"bystander {message}" for message in _messages(records)]
    yield {}
    worst = max(_paced(queued.logger.info, messages))
    queued.drain()
    _wait_until_packed(path)
    yield {"worst_call": worst, "lost": records - _occurrences(directory, b" bystander ")}


def _paced(info: Callable[[str], None], messages: list[str]) -> list[float]:
    calls = []
    due = time.perf_counter()
    for message in messages:
        due += HALF_MILLISECOND
        time.sleep(max(0.0, due - time.perf_counter()))
        start = time.perf_counter()
        info(message)
        calls.append(time.perf_counter() - start)
    return calls


# --- rotation of a long chain -------------------------------------------------------------------


def full_chain(subject: str, directory: Path, backups: int) -> Iterator[Round]:
    """The logging call that rotates while all of the *backups* are there."""
    path = directory / "app.log"
    timed = subject.endswith("-timed")
    for number in range(1, backups + 1):
        then = time.localtime(1_600_000_000 + number)
        suffix = time.strftime("%Y-%m-%d_%H-%M-%S", then) if timed else number
        Path(f"{path}.{suffix}").write_text("old\n", encoding="ascii")
    handler: Any = handler_for(subject, path, Files(UNREACHABLE, backups, when="S"))
    info = logger_with(handler).info
    yield {}
    while True:
        info("written before the rotation")
        if timed:
            time.sleep(1.1)
        else:
            handler.maxBytes = 1
        start = time.perf_counter()
        info("this record rotates")
        call = time.perf_counter() - start
        if not timed:
            handler.maxBytes = UNREACHABLE
        kept = sum(1 for found in directory.iterdir() if found.name.startswith("app.log."))
        if kept != backups:
            msg = f"{kept} backups are there instead of {backups}"
            raise RuntimeError(msg)
        yield {"call": call}


# --- files --------------------------------------------------------------------------------------


def _seed(directory: Path, size: int) -> Path:
    """A file of *size* bytes of log lines."""
    seed = directory / "seed"
    start = "2026-11-23 18:00:00"
    lines = (f"{start},{n % 1000:03} - bench - INFO - {text}\n" for n, text in enumerate(_messages(8000)))
    block = "".join(lines).encode("ascii")
    with seed.open("wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: size - start])
        os.fsync(file.fileno())
    return seed


def _fresh(directory: Path, seed: Path) -> Path:
    """A live file like *seed* in an empty directory, synced so that writing it back disturbs nobody later."""
    shutil.rmtree(directory / "round", ignore_errors=True)
    (directory / "round").mkdir()
    path = directory / "round" / "app.log"
    shutil.copyfile(seed, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path


def _is_packed(path: Path) -> bool:
    """Whether the rotated file is a complete `.gz`: it is there, and its plain source is gone."""
    backups = set(path.parent.glob("app.*")) - {path}
    return bool(backups) and all(backup.suffix == ".gz" for backup in backups)


def _wait_until_packed(path: Path) -> None:
    deadline = time.monotonic() + ANSWER_SECONDS
    while not _is_packed(path):
        if time.monotonic() > deadline:
            msg = f"no .gz after {ANSWER_SECONDS} s"
            raise TimeoutError(msg)
        time.sleep(0.005)


def _occurrences(directory: Path, marker: bytes) -> int:
    """How often *marker* is in the log and its backups."""
    total = 0
    for path in directory.glob("app.*"):
        data = path.read_bytes()
        total += (gzip.decompress(data) if path.suffix == ".gz" else data).count(marker)
    return total


MEASURES: dict[str, Callable[..., Iterator[Round]]] = {
    "one": one,
    "count": count,
    "many": many,
    "gzip-wait": gzip_wait,
    "gzip-memory": gzip_memory,
    "burst": burst,
    "latency": latency,
    "latency-gzip": latency_gzip,
    "full-chain": full_chain,
}

if __name__ == "__main__":
    logging.captureWarnings(capture=False)
    main()
