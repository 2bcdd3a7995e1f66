"""
The program that writes in the laboratory.

    writer.py NAME WHAT

NAME stands in each of its records and names its diary, `/acknowledged/NAME`: one line for each record that was
acknowledged (`ok NUMBER`) or reported (`refused NUMBER WHY`), for each other report (`trouble WHY`) and for each
backup that `on_rotated` was told of (`told PATH`).  A diary survives the kill of its writer, and so says what it owes.

WHAT is a JSON object: `handler` is a key of `HANDLERS`, `stop_at` (a name of an audit event and a part of its first
argument) has the process stop itself there once, `hold_told` has `on_rotated` wait for a line; the rest
is the handler's.

It prints a JSON object when it is ready, and then does what each line of its standard input says, and answers
with another: `emit NUMBER [SECONDS]` (so many records, with a pause after each), `batch NUMBER`, `roll`, `close`,
`stop` (itself, before the next `fsync`).
"""

import json
import logging
import logging.handlers
import os
import signal
import sys
import time
import warnings
from typing import Any

from process_helpers import a_record, text_of

HANDLERS = {
    "size": ("concurrent_log_handler", "ConcurrentRotatingFileHandler"),
    "timed": ("concurrent_log_handler", "ConcurrentTimedRotatingFileHandler"),
    "stdlib": ("logging.handlers", "RotatingFileHandler"),
    "clh": ("concurrent_log_handler", "ConcurrentRotatingFileHandler"),  # the published one
}


class Diary:
    def __init__(self, name: str) -> None:
        self._fd = os.open(f"/acknowledged/{name}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(self, *words: object) -> None:
        line = " ".join(map(str, words)).replace("\n", " ")
        os.write(self._fd, f"{line}\n".encode())


class Writer:
    def __init__(
        self, name: str, handler: str, hold_told: bool = False, stop_at: Any = None, **options: Any
    ) -> None:
        self._name = name
        self._diary = Diary(name)
        self._number = 0
        self._hold = hold_told
        if stop_at:
            sys.addaudithook(self._stop_at(*stop_at))
        module, kind = HANDLERS[handler]
        if handler in ("clh", "stdlib"):
            del options["lock_timeout"]
        if handler == "clh":
            sys.path.insert(0, "/lab/clh")
        base = getattr(__import__(module, fromlist=[kind]), kind)
        if "on_rotated" in options:
            options["on_rotated"] = self._told

        def report(_: logging.Handler, record: logging.LogRecord) -> None:
            self._report(record)

        self.handler = type(kind, (base,), {"handleError": report})(**options)

    def _report(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        why = f"{type(error).__name__}: {error}"
        number = record.__dict__.get("number")
        if number is None:
            self._diary.note("trouble", why)
        else:
            self._refused.add(number)
            self._diary.note("refused", number, why)

    def _told(self, path: str) -> None:
        self._diary.note("told", path)
        if self._hold:
            say(telling=path)
            sys.stdin.readline()

    def _stop_at(self, event: str, part: str) -> Any:
        armed = True

        def hook(name: str, arguments: Any) -> None:
            nonlocal armed
            if armed and name == event and part in str(arguments[0]):
                armed = False
                say(stopping=str(arguments[0]))
                os.kill(os.getpid(), signal.SIGSTOP)

        return hook

    def stop(self) -> None:
        def profile(_frame: Any, event: str, function: Any) -> None:
            if event == "c_call" and function is os.fsync:
                sys.setprofile(None)
                say(stopping="fsync")
                os.kill(os.getpid(), signal.SIGSTOP)

        sys.setprofile(profile)

    def _records(self, count: int) -> Any:
        self._refused: set = set()
        for _ in range(count):
            record = a_record(text_of(self._name, self._number))
            record.number = self._number
            self._number += 1
            yield record

    def _acknowledge(self, record: Any) -> None:
        if record.number not in self._refused:
            self._diary.note("ok", record.number)

    def emit(self, count: int, pause: float = 0.0) -> None:
        for record in self._records(count):
            self.handler.handle(record)
            self._acknowledge(record)
            time.sleep(pause)

    def batch(self, count: int) -> None:
        records = list(self._records(count))
        self.handler.emit_batch(records)
        for record in records:
            self._acknowledge(record)

    def roll(self) -> None:
        self.handler.doRollover()

    def close(self) -> None:
        self.handler.close()


def say(**what: Any) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def main() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        writer = Writer(sys.argv[1], **json.loads(sys.argv[2]))
    say(pid=os.getpid(), warnings=[str(each.message) for each in caught])
    for line in sys.stdin:
        what, *numbers = line.split()
        began = time.monotonic()
        getattr(writer, what)(*(int(each) if each.isdigit() else float(each) for each in numbers))
        say(seconds=time.monotonic() - began)


main()
