"""The command line of the self-check: what a user may ask for, and which exit status tells the result."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import math
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, Callable, NoReturn, TypeVar

from concurrent_log_handler import ConcurrentRotatingFileHandler, __version__, _network, _options

from ._check import Check, InterruptedCheckError
from ._machines import MachinesCheck
from ._meeting import MeetingError
from ._records import HEADER, HEADER_BYTES
from ._report import PROGRAM, LiveLine, show, show_heading, show_json
from ._round import Settings
from ._writer import STOPPING

_DEFAULT_RECORDS = 20_000
_SHARED = {"auto": None, "yes": True, "no": False}
_Number = TypeVar("_Number", int, float)

_DESCRIPTION = """\
Self-check: several processes write numbered, checksummed records into one rotating log; then all
files are read back and what is lost, doubled, torn, out of order or over the limit is counted."""

_EPILOG = f"""\
A size is a number of bytes or text such as "1 MB" (1,000,000) or "512 KiB" (524,288).

The check works in a directory of its own inside --dir, and removes it.  Logs are begun anew from
time to time, so that a long run needs no more than some hundred files.

With --machines the same command is given on each machine that shares --dir.  They wait for each
other, see whether a lock that one holds is refused to the others, write one log together (for
10 seconds, if neither --seconds nor --records says otherwise), and each reads all of it back.

With --chaos a record counts once its logging call has returned.  While the lock file is deleted,
two processes can hold a lock: a file may then pass the limit by a record of each other writer, and
an empty line may stand between two records.

examples:
  {PROGRAM}
  {PROGRAM} --dir /mnt/share/logs --processes 8
  {PROGRAM} --max-bytes "1 MB" --records 50000 --no-gzip
  {PROGRAM} --seconds 600 --processes 8 --chaos
  {PROGRAM} --dir /mnt/share/logs --machines 2
  {PROGRAM} --json | python -m json.tool

exit status: 0 nothing wrong, 1 something wrong, 2 a bad option, 130 interrupted"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say it in one line; the whole usage hides what is wrong."""
        self.exit(2, f"{PROGRAM}: {message}\n")


def _above_zero(read: Callable[[str], _Number], accepted: str) -> Callable[[str], _Number]:
    """Return what turns text into a number by *read*, and says what is *accepted* of any other text."""

    def number(text: str) -> _Number:
        with contextlib.suppress(ValueError):
            value = read(text)
            if math.isfinite(value) and value > 0:
                return value
        msg = f"must be {accepted}, got {text!r}"
        raise argparse.ArgumentTypeError(msg)

    return number


_whole = _above_zero(int, "a whole number, 1 or more")
_seconds = _above_zero(float, "a number of seconds above 0")
_size = _above_zero(
    lambda text: _options.size(text, "size"),
    "a number of bytes, 1 or more, or text such as '1 MB' or '512 KiB'",
)


def _directory(text: str) -> str:
    if not os.path.isdir(text):
        msg = f"must be an existing directory, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return os.path.abspath(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    def add(name: str, text: str, **how: Any) -> None:
        parser.add_argument(name, help=text, **how)

    whole = {"type": _whole, "metavar": "N"}
    size = {"type": _size, "metavar": "SIZE"}
    seconds = {"type": _seconds, "metavar": "S"}
    directory = {"type": _directory, "metavar": "DIR"}
    add("--dir", "directory to check (default: the one for temporary files)", **directory)
    add("--processes", "writers at a time (default: 4)", default=4, **whole)
    add("--records", f"records of each writer (default: {_DEFAULT_RECORDS:,})", **whole)
    add("--seconds", "stop writing after this time (default: when all is written)", **seconds)
    add("--max-bytes", "size limit of a file (default: 128 KiB, or 8 KiB with --machines)", **size)
    add("--backup-count", "backups kept (default: enough for all records)", **whole)
    add("--gzip", "compress backups (default: yes)", action=argparse.BooleanOptionalAction, default=True)
    add("--background-gzip", "compress in a thread, the logging call does not wait", action="store_true")
    add("--chaos", "kill writers, delete the lock file, move the log away while it runs", action="store_true")
    add("--header", "begin each file with a header, and look that each has one", action="store_true")
    add("--machines", "machines that do this together, on a --dir that they share", **whole)
    add("--wait", "wait this long for the other machines (default: 120)", **seconds)
    choices = tuple(_SHARED)
    add("--shared-between-machines", "tell the handler whether --dir is on a shared disk", choices=choices)
    add("--json", "print one JSON object and nothing else", action="store_true")
    version = f"concurrent-log-handler {__version__}"
    parser.add_argument("--version", action="version", version=version)
    return parser


def _settings(options: argparse.Namespace, handler_class: type[logging.Handler], patience: float) -> Settings:
    alone = options.machines is None
    records = options.records
    if alone and records is None and options.seconds is None:
        records = _DEFAULT_RECORDS
    told = options.shared_between_machines
    kind = _network.file_system_type(options.dir or tempfile.gettempdir())
    return Settings(
        directory=options.dir,
        processes=options.processes,
        records=records,
        seconds=options.seconds,
        max_bytes=options.max_bytes or (128 if alone else 8) * 1024,
        backup_count=options.backup_count,
        gzip=options.gzip,
        background_gzip=options.background_gzip,
        chaos=options.chaos,
        patience=patience,
        handler_class=handler_class,
        arguments={
            **({} if told is None else {"shared_between_machines": _SHARED[told]}),
            **({"header": HEADER} if options.header else {}),
        },
        machines=options.machines or 1,
        wait=options.wait or 120.0,
        shared=kind if _network.is_shared_type(kind) else "",
    )


def _check_together(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program where what was asked for does not go together."""
    if options.background_gzip and not options.gzip:
        parser.error("--background-gzip and --no-gzip exclude each other")
    if options.machines is None:
        if options.wait is not None:
            parser.error("--wait goes with --machines")
    elif options.machines < 2:
        parser.error("argument --machines: must be 2 or more")
    elif options.dir is None:
        parser.error("--machines needs --dir, a directory that the machines share")
    elif options.chaos:
        parser.error("--machines and --chaos exclude each other")
    if options.header and options.max_bytes and options.max_bytes <= HEADER_BYTES:
        least = f"{HEADER_BYTES + 1} or more with --header"
        parser.error(
            f"argument --max-bytes: must be {least}, so that a record has room, got {options.max_bytes}"
        )
    if options.dir is not None and not os.access(options.dir, os.W_OK | os.X_OK):
        parser.error(f"argument --dir: {options.dir!r} may not be written by this user")


@contextlib.contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Collect the signals that ask to stop: nothing is cut off in the middle, least of all the clean-up."""
    noted: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        noted.append(number)

    before = {number: signal.signal(number, note) for number in STOPPING}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(settings: Settings, as_json: bool, interrupted: Callable[[], bool]) -> int:
    live_line = LiveLine(shown=not as_json and sys.stdout.isatty())
    if not as_json:
        show_heading(settings)
    try:
        check = MachinesCheck if settings.machines > 1 else Check
        result = check(settings, interrupted, live_line).run()
    except InterruptedCheckError:
        live_line.clear()
        print(f"{PROGRAM}: interrupted; all writers are stopped and their files removed", file=sys.stderr)
        return 130
    except MeetingError as error:
        live_line.clear()
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        live_line.clear()
        print(f"{PROGRAM}: cannot check: {error}", file=sys.stderr)
        return 1
    live_line.clear()
    (show_json if as_json else show)(settings, result)
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
    _check_together(parser, options)
    with _signals_noted() as noted:
        try:
            status = _run(_settings(options, handler_class, patience), options.json, lambda: bool(noted))
            sys.stdout.flush()
        except OSError as error:
            if not isinstance(error, BrokenPipeError):  # else whoever read our output has gone
                print(f"{PROGRAM}: cannot write the result: {error}", file=sys.stderr)
            # Without this, Python tries once more at its exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 1
    return status
