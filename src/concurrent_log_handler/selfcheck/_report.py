"""What the user sees of a check: a line while it runs, then a table or one JSON object."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from typing import Any

from concurrent_log_handler import __version__

from ._round import Result, Settings

PROGRAM = "python -m concurrent_log_handler"


class LiveLine:
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


def show_heading(settings: Settings) -> None:
    gzip = "gzip in the background" if settings.background_gzip else "gzip" if settings.gzip else "no gzip"
    who = f"{settings.processes} processes"
    if settings.machines > 1:
        who = f"{settings.machines} machines, {who} on each"
    print(f"concurrent-log-handler {__version__}: {who}, one log, {gzip}", flush=True)
    if settings.machines > 1:
        print(f"Give the same command on each of the machines, within {settings.wait:g} s.", flush=True)


def show(settings: Settings, result: Result) -> None:
    for machine in result.machines:
        print(machine)
    if result.written or not result.machines:
        _show_table(settings, result)
    for problem in result.problems:
        print(f"! {problem}")
    if settings.shared and settings.machines == 1:
        command = f"{PROGRAM} --dir {shlex.quote(str(settings.directory))} --machines 2"
        print(
            f"Note: other machines share this disk ({settings.shared}); this tested one alone, try all: {command}"
        )
    if result.good and not result.rotations:
        print("Note: no file was full, so none was rotated; take more --records or a smaller --max-bytes.")
    print("Nothing wrong." if result.good else "FAILED: this log cannot be trusted.")


def _show_table(settings: Settings, result: Result) -> None:
    if result.machines:
        print("A lock that one of them holds is refused to the others.")
    for name, value in _rows(settings, result):
        number, _, unit = value.partition(" ")
        print(f"{name:<32}{number:>14} {unit}".rstrip())


def show_json(settings: Settings, result: Result) -> None:
    found = result.findings
    chaos = {
        "kills": result.kills,
        "sidecars_deleted": result.sidecars_deleted,
        "files_moved": result.files_moved,
        "fragments_sealed": found.fragments,
        "empty_lines": found.empty_lines,
    }
    report: dict[str, Any] = {
        "ok": result.good,
        "version": __version__,
        "machines": settings.machines,
        "processes": settings.processes,
        "records": result.written,
        "lost": found.lost,
        "doubled": found.doubled,
        "torn": found.torn,
        "out_of_order": found.out_of_order,
        "expired": found.expired,
        "over_limit": found.over_limit,
        "without_one_header": found.without_one_header,
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
        "shared_file_system": settings.shared or None,
        "chaos": chaos if settings.chaos else None,
        "problems": result.problems,
    }
    print(json.dumps(report))


def _rows(settings: Settings, result: Result) -> Iterator[tuple[str, str]]:
    found = result.findings
    yield "records written", f"{result.written:,}"
    yield "lost", f"{found.lost:,}"
    yield "doubled", f"{found.doubled:,}"
    yield "torn", f"{found.torn:,}"
    yield "out of order within one writer", f"{found.out_of_order:,}"
    if "header" in settings.arguments:
        yield "files without exactly one header", f"{found.without_one_header:,}"
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


def _rate(result: Result) -> int:
    return round(result.written / result.seconds) if result.seconds else 0
