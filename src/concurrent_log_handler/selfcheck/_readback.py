"""What is left in the files of what the writers say that they wrote.  Files are only read."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Callable, NamedTuple

from ._records import Claim, parse, record_text


class Limits(NamedTuple):
    """What the handler was asked to keep to; *slack* bytes may pass the size limit, lines may be empty.

    Each file begins with *header*, if there is one, and has it nowhere else.
    """

    max_bytes: int
    backup_count: int
    longest: int
    slack: int = 0
    empty_lines: bool = False
    header: bytes = b""


@dataclass
class Findings:
    """What the files say, in records; `largest` is in bytes, `over_limit` and `without_one_header` in files."""

    lost: int = 0
    doubled: int = 0
    torn: int = 0
    out_of_order: int = 0
    over_limit: int = 0
    without_one_header: int = 0
    present: int = 0
    expired: int = 0
    fragments: int = 0
    empty_lines: int = 0
    largest: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> bool:
        damaged = self.lost or self.doubled or self.torn or self.out_of_order
        return bool(damaged or self.over_limit or self.without_one_header)

    def add(self, other: Findings) -> None:
        """Add what one more log says."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            setattr(self, name, max(mine, value) if name == "largest" else mine + value)


class Chain(NamedTuple):
    """The files of one log: *files* oldest first, *plain* backups, *strays* that belong to no log."""

    files: list[str]
    highest: int
    plain: list[str]
    strays: list[str]


def chain_of(live: str, sidecar: str) -> Chain:
    """List the files of the log at *live*; what else lies there, but for *sidecar*, is a stray."""
    directory, name = os.path.split(live)
    pattern = re.compile(re.escape(name) + r"\.(\d+)(\.gz)?")
    backups: list[tuple[int, str]] = []
    plain: list[str] = []
    strays: list[str] = []
    for entry in sorted(os.listdir(directory)):
        match = pattern.fullmatch(entry)
        if match:
            backups.append((int(match[1]), entry))
            if not match[2]:
                plain.append(entry)
        elif entry not in (name, sidecar):
            strays.append(entry)
    backups.sort(reverse=True)
    files = [os.path.join(directory, entry) for _, entry in backups]
    if os.path.exists(live):
        files.append(live)
    return Chain(files, backups[0][0] if backups else 0, plain, strays)


class Audit:
    """
    Counts the records of one log against what its writers claim.

    Args:
        claims: What each writer claims, by its number.
        limits: What the handler was asked to keep to.
        heed: Called before each file; may raise to end the reading.
    """

    def __init__(
        self, claims: Mapping[int, Claim], limits: Limits, heed: Callable[[], None] = lambda: None
    ) -> None:
        self._heed = heed
        self.findings = Findings()
        self._claims = claims
        self._limits = limits
        self._seen: dict[int, bytearray] = {
            writer: bytearray(claim.acknowledged + 2) for writer, claim in claims.items()
        }
        self._in_flight = {
            writer: record_text(writer, claim.acknowledged + 1, limits.longest).encode()
            for writer, claim in claims.items()
            if claim.killed
        }
        self._oldest_kept: dict[int, int] = {}

    def read_chain(self, chain: Chain) -> None:
        """Read the log itself."""
        self._read(chain.files)
        full = chain.highest >= self._limits.backup_count
        for writer, seen in self._seen.items():
            # What retention took is older than all that it kept.
            kept_from = seen.find(1) if full else 0
            self._oldest_kept[writer] = kept_from if kept_from >= 0 else len(seen)

    def read_apart(self, files: Iterable[str]) -> None:
        """Read files that were moved out of the log, oldest first; call it after `read_chain`."""
        self._read(files)

    def finish(self) -> Findings:
        """Compare what was seen with what was claimed."""
        found = self.findings
        for writer, claim in self._claims.items():
            seen = self._seen[writer]
            for number in _zeros(seen, claim.acknowledged):
                if number < self._oldest_kept.get(writer, 0):
                    found.expired += 1
                elif number not in claim.reported:
                    found.lost += 1
                    last = (
                        ", its last before it was killed"
                        if claim.killed and number == claim.acknowledged
                        else ""
                    )
                    self._example(f"lost: record {number} of writer {writer}{last}")
        return found

    def _read(self, files: Iterable[str]) -> None:
        latest: dict[int, int] = {}
        for path in files:
            self._heed()
            self._read_file(path, latest)

    def _read_file(self, path: str, latest: dict[int, int]) -> None:
        name = os.path.basename(path)
        size = records = headers = 0
        begins = False
        header = self._limits.header
        try:
            for line in _lines(path):
                if header and line.rstrip(b"\r\n") == header:
                    begins = begins or not size
                    headers += 1
                else:
                    records += 1
                    self._line(line, name, latest)
                size += len(line)
        except (OSError, EOFError, zlib.error) as error:
            self.findings.problems.append(f"{name} cannot be read to its end: {error}")
        if header and size and not (begins and headers == 1):
            self.findings.without_one_header += 1
            where = "" if begins or not headers else ", not at its beginning"
            self._example(f"header: {name} has {headers}{where}")
        self.findings.largest = max(self.findings.largest, size)
        if size > self._limits.max_bytes + self._limits.slack and records > 1:
            self.findings.over_limit += 1
            self._example(f"over the limit: {name} has {size:,} bytes in {records:,} records")

    def _line(self, line: bytes, name: str, latest: dict[int, int]) -> None:
        text = line.rstrip(b"\r\n")
        record = parse(text)
        if record is None or not self._known(*record):
            self._not_a_record(text, name)
            return
        writer, number = record
        if not line.endswith(b"\n") and number <= self._claims[writer].acknowledged:
            self._torn(text, name)
            return
        seen = self._seen[writer]
        if seen[number]:
            self.findings.doubled += 1
            self._example(f"doubled: record {number} of writer {writer}, again in {name}")
        else:
            seen[number] = 1
            self.findings.present += 1
            if number < latest.get(writer, 0):
                self.findings.out_of_order += 1
                self._example(
                    f"out of order: record {number} of writer {writer} after {latest[writer]}, in {name}"
                )
        latest[writer] = max(number, latest.get(writer, 0))

    def _known(self, writer: int, number: int) -> bool:
        claim = self._claims.get(writer)
        return claim is not None and 1 <= number <= claim.acknowledged + claim.killed

    def _not_a_record(self, text: bytes, name: str) -> None:
        if not text and self._limits.empty_lines:
            self.findings.empty_lines += 1
            return
        for writer, whole in self._in_flight.items():
            if text and whole.startswith(text):
                del self._in_flight[writer]
                self.findings.fragments += 1
                return
        self._torn(text, name)

    def _torn(self, text: bytes, name: str) -> None:
        self.findings.torn += 1
        self._example(f"torn: {text[:60].decode(errors='replace')!r} ({len(text)} bytes) in {name}")

    def _example(self, line: str) -> None:
        if len(self.findings.problems) < 10:
            self.findings.problems.append(line)


def _zeros(seen: bytearray, up_to: int) -> Iterator[int]:
    number = seen.find(0, 1, up_to + 1)
    while number != -1:
        yield number
        number = seen.find(0, number + 1, up_to + 1)


def _lines(path: str) -> Iterator[bytes]:
    if path.endswith(".gz"):
        with gzip.open(path, "rb") as packed:
            yield from packed
    else:
        with open(path, "rb") as plain:
            yield from plain
