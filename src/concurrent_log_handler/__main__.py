"""`python -m concurrent_log_handler`: does logging from many processes work on this disk?

Owns the command line and what is shown; the work is done in `_selfcheck`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, Callable, NoReturn

from . import ConcurrentRotatingFileHandler, __version__, _options
from ._selfcheck import Check, InterruptedCheckError, Result, Settings

_PROGRAM = "python -m concurrent_log_handler"
_DEFAULT_RECORDS = 20_000

_DESCRIPTION = """\
Self-check: several processes write numbered, checksummed records into one rotating log; then all
files are read back and what is lost, doubled, torn, out of order or over the limit is counted."""

_EPILOG = f"""\
A size is a number of bytes or text such as "1 MB" (1,000,000) or "512 KiB" (524,288).

The check works in a directory of its own inside --dir, and removes it.  Logs are begun anew from
time to time, so that a long run needs no more than some hundred files.

With --chaos a record counts once its logging call has returned.  While the lock file is deleted,
two processes can hold a lock: a file may then pass the limit by a record of each other writer, and
an empty line may stand between two records.

examples:
  {_PROGRAM}
  {_PROGRAM} --dir /mnt/share/logs --processes 8
  {_PROGRAM} --max-bytes "1 MB" --records 50000 --no-gzip
  {_PROGRAM} --seconds 600 --processes 8 --chaos
  {_PROGRAM} --json | python -m json.tool

exit status: 0 nothing wrong, 1 something wrong, 2 a bad option, 130 interrupted"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say it in one line; the whole usage hides what is wrong."""
        self.exit(2, f"{_PROGRAM}: {message}\n")


def _whole(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        msg = f"must be a whole number, 1 or more, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return number


def _size(text: str) -> int:
    try:
        number = _options.size(text, "size")
    except ValueError:
        number = 0
    if number < 1:
        msg = f"must be a number of bytes, 1 or more, or text such as '1 MB' or '512 KiB', got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not math.isfinite(number) or number <= 0:
        msg = f"must be a number of seconds above 0, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return number


def _directory(text: str) -> str:
    if not os.path.isdir(text):
        msg = f"must be an existing directory, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return os.path.abspath(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--dir",
        type=_directory,
        metavar="DIR",
        help="directory to check (default: the one for temporary files)",
    )
    add("--processes", type=_whole, default=4, metavar="N", help="writers at a time (default: 4)")
    add("--records", type=_whole, metavar="N", help=f"records of each writer (default: {_DEFAULT_RECORDS:,})")
    add(
        "--seconds",
        type=_seconds,
        metavar="S",
        help="stop writing after this time (default: when all is written)",
    )
    add(
        "--max-bytes",
        type=_size,
        default="128 KiB",
        metavar="SIZE",
        help="size limit of a file (default: 128 KiB)",
    )
    add("--backup-count", type=_whole, metavar="N", help="backups kept (default: enough for all records)")
    add("--gzip", action=argparse.BooleanOptionalAction, default=True, help="compress backups (default: yes)")
    add("--background-gzip", action="store_true", help="compress in a thread, the logging call does not wait")
    add(
        "--chaos",
        action="store_true",
        help="kill writers, delete the lock file, move the log away while it runs",
    )
    add("--json", action="store_true", help="print one JSON object and nothing else")
    add("--version", action="version", version=f"concurrent-log-handler {__version__}")
    return parser


def _settings(
    arguments: argparse.Namespace, handler_class: type[logging.Handler], patience: float
) -> Settings:
    records = arguments.records
    if records is None and arguments.seconds is None:
        records = _DEFAULT_RECORDS
    return Settings(
        directory=arguments.dir,
        processes=arguments.processes,
        records=records,
        seconds=arguments.seconds,
        max_bytes=arguments.max_bytes,
        backup_count=arguments.backup_count,
        gzip=arguments.gzip,
        background_gzip=arguments.background_gzip,
        chaos=arguments.chaos,
        patience=patience,
        handler_class=handler_class,
    )


@contextlib.contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Collect the signals that ask to stop: nothing is cut off in the middle, least of all the clean-up."""
    noted: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        noted.append(number)

    names = ("SIGINT", "SIGTERM", "SIGHUP")
    before = {
        number: signal.signal(number, note) for number in (getattr(signal, n, None) for n in names) if number
    }
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _LiveLine:
    """What is going on, in one line of a terminal that is written over and over; nowhere else."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._began = self._last = time.monotonic()
        self._width = 0

    def __call__(self, doing: str, records: int) -> None:
        now = time.monotonic()
        if self._shown and now - self._last >= 0.1:
            self._last = now
            self._print(f"{now - self._began:5.0f} s  {records:,} records, {doing}")

    def clear(self) -> None:
        if self._width:
            self._print("")
            print("\r", end="", flush=True)

    def _print(self, text: str) -> None:
        print("\r" + text.ljust(self._width), end="", flush=True)
        self._width = len(text)


def _rate(result: Result) -> int:
    return round(result.written / result.seconds) if result.seconds else 0


def _report(settings: Settings, result: Result) -> dict[str, Any]:
    found = result.findings
    return {
        "ok": result.good,
        "version": __version__,
        "processes": settings.processes,
        "records": result.written,
        "lost": found.lost,
        "doubled": found.doubled,
        "torn": found.torn,
        "out_of_order": found.out_of_order,
        "expired": found.expired,
        "over_limit": found.over_limit,
        "handler_errors": result.handler_errors,
        "rotations": result.rotations,
        "seconds": round(result.seconds, 3),
        "records_per_second": _rate(result),
        "slowest_call_ms": round(result.slowest * 1000, 3),
        "largest_file": found.largest,
        "max_bytes": settings.max_bytes,
        "backup_count": settings.backups(),
        "gzip": settings.gzip,
        "background_gzip": settings.background_gzip,
        "rounds": result.rounds,
        "chaos": {
            "kills": result.kills,
            "sidecars_deleted": result.sidecars_deleted,
            "files_moved": result.files_moved,
            "fragments_sealed": found.fragments,
            "empty_lines": found.empty_lines,
        }
        if settings.chaos
        else None,
        "problems": result.problems,
    }


def _rows(settings: Settings, result: Result) -> Iterator[tuple[str, str]]:
    found = result.findings
    yield "records written", f"{result.written:,}"
    yield "lost", f"{found.lost:,}"
    yield "doubled", f"{found.doubled:,}"
    yield "torn", f"{found.torn:,}"
    yield "out of order within one writer", f"{found.out_of_order:,}"
    if found.expired:
        yield "expired, as --backup-count says", f"{found.expired:,}"
    if result.handler_errors:
        yield "errors reported by the handler", f"{result.handler_errors:,}"
    yield "rotations", f"{result.rotations:,}"
    yield "records per second", f"{_rate(result):,}"
    yield "slowest single call", f"{result.slowest * 1000:,.1f} ms"
    yield "largest file", f"{found.largest:,} bytes"
    yield "limit (maxBytes)", f"{settings.max_bytes:,} bytes"
    if settings.chaos:
        yield "writers killed and replaced", f"{result.kills:,}"
        yield "lock file deleted", f"{result.sidecars_deleted:,} times"
        yield "live file moved away", f"{result.files_moved:,} times"
        yield "fragments of killed writers", f"{found.fragments:,}"
        yield "empty lines", f"{found.empty_lines:,}"


def _show(settings: Settings, result: Result) -> None:
    for name, value in _rows(settings, result):
        number, _, unit = value.partition(" ")
        print(f"{name:<32}{number:>14} {unit}".rstrip())
    for problem in result.problems:
        print(f"! {problem}")
    if result.good and not result.rotations:
        print("Note: no file was full, so none was rotated; take more --records or a smaller --max-bytes.")
    print("Nothing wrong." if result.good else "FAILED: this log cannot be trusted.")


def _run(settings: Settings, as_json: bool, interrupted: Callable[[], bool]) -> int:
    live_line = _LiveLine(shown=not as_json and sys.stdout.isatty())
    if not as_json:
        gzip = (
            "no gzip"
            if not settings.gzip
            else "gzip in the background"
            if settings.background_gzip
            else "gzip"
        )
        print(
            f"concurrent-log-handler {__version__}: {settings.processes} processes, one log, {gzip}",
            flush=True,
        )
    try:
        result = Check(settings, interrupted, live_line).run()
    except InterruptedCheckError:
        live_line.clear()
        print(f"{_PROGRAM}: interrupted; all writers are stopped and their files removed", file=sys.stderr)
        return 130
    except OSError as error:
        live_line.clear()
        print(f"{_PROGRAM}: cannot check: {error}", file=sys.stderr)
        return 1
    live_line.clear()
    if as_json:
        print(json.dumps(_report(settings, result)))
    else:
        _show(settings, result)
    return 0 if result.good else 1


def main(
    arguments: Sequence[str] | None = None,
    handler_class: type[logging.Handler] = ConcurrentRotatingFileHandler,
    patience: float = 30.0,
) -> int:
    """
    Run the self-check and return its exit status.

    Args:
        arguments: The command line without the program; None is the process's own.
        handler_class: What to check, called as `ConcurrentRotatingFileHandler` is and importable by a child.
        patience: Seconds without a record after which a writer counts as hanging.
    """
    if sys.stdout is None:  # closed by whoever started us: the exit status tells the result
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the end of the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a torn record is shown on any terminal
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.background_gzip and not options.gzip:
        parser.error("--background-gzip and --no-gzip exclude each other")
    directory = options.dir
    if directory is not None and not os.access(directory, os.W_OK | os.X_OK):
        parser.error(f"argument --dir: {directory!r} may not be written by this user")
    with _signals_noted() as noted:
        try:
            status = _run(_settings(options, handler_class, patience), options.json, lambda: bool(noted))
            sys.stdout.flush()
        except OSError as error:
            if not isinstance(error, BrokenPipeError):  # else whoever read our output has gone
                print(f"{_PROGRAM}: cannot write the result: {error}", file=sys.stderr)
            # Without this, Python tries once more at its exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
