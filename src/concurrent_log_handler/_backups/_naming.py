"""What the backups of the timed handler are called, and which names it made.  No file is touched here.

When a period ends and which text stands for it is `_calendar`'s; the directory is read by `_chains`.
"""

from __future__ import annotations

import calendar
import contextlib
import os
import re
import time
from functools import lru_cache, partial
from itertools import chain
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Pattern, Tuple, Union

# For each unit, CPython 3.13's on every Python.
SUFFIXES = {"S": "%Y-%m-%d_%H-%M-%S", "M": "%Y-%m-%d_%H-%M", "H": "%Y-%m-%d_%H", "D": "%Y-%m-%d"}
_DIRECTIVES = {
    **dict.fromkeys("YG", r"\d{4}"),
    **dict.fromkeys("mdHMSyIUWVC", r"\d{2}"),
    **dict.fromkeys("uw", r"\d"),
    "j": r"\d{3}",
    "s": r"\d+",
    "%": "%",
}
# Short for others; without them, nobody could read the date back.
_COMPOSITES = {"F": "%Y-%m-%d", "T": "%H:%M:%S", "R": "%H:%M", "D": "%m/%d/%y", "h": "%b"}
_MOST_TRIES = 10_000  # names for one backup, where files lie that no pattern finds
_SAMPLE = time.gmtime(1_234_567_890)  # 2009-02-13 23:31:30, a Friday
_NUMBERED = re.compile(r"(.+)\.([1-9][0-9]*)", re.DOTALL)
_NUMBER = re.compile(r"(?<!\d)[1-9]\d{0,8}(?!\d)", re.ASCII)

Namer = Callable[[str], str]
Key = Tuple[int, str, int]  # the first three of a `Backup`


class Naming(NamedTuple):
    path: str  # the log's, absolute
    suffix: str
    pattern: Pattern[str]  # what the text of a period looks like, by the user's word where he gave one
    namer: Optional[Namer]

    def backup_path(self, text: str, number: int) -> str:
        """
        The path for one backup, without `.gz`: `base.text`, `base.text.number`, or what the namer makes of it.

        A namer that drops the number would give one path twice; then the number follows what it returned.
        """
        named = self._named(text, number)
        return named if not number or named != self._named(text, 0) else f"{named}.{number}"

    def free_path(self, text: str, first: int, taken: Callable[[str], bool]) -> str:
        """Return the path, which is not *taken*, for one more backup of the period *text*."""
        # As it is, if it is free: a namer may count by what lies on the disk.
        as_it_is = self._named(text, first)
        others = (self.backup_path(text, number) for number in range(first, first + _MOST_TRIES))
        for path in chain([as_it_is], others):
            if not taken(path):
                return path
        msg = f"no free name for a backup of {os.path.basename(self.path)!r}: {as_it_is!r} and those after it are taken"
        raise FileExistsError(msg)

    def backup_directory(self) -> str:
        """The directory to list: the log's own, or the one into which the namer puts the backups."""
        return os.path.abspath(os.path.dirname(self._named(time.strftime(self.suffix, _SAMPLE), 0)))

    def list_backups(self, names: Iterable[str], directory: Optional[str] = None) -> List[Backup]:
        """What this handler made, among the *names* in *directory* (default: the log's own), oldest first."""
        own, base = os.path.split(self.path)
        where = os.path.abspath(own if directory is None else directory)
        home = where == os.path.abspath(own)
        found: Dict[Key, Tuple[str, ...]] = {}
        for name in names:
            # Whole first: a namer or a suffix may end in .gz itself.
            for stem in (name, name[:-3]) if name.endswith(".gz") else (name,):
                if self.namer is not None:
                    key = self._parse_named(os.path.join(where, stem))
                else:
                    key = _parse_plain(base, self.suffix, self.pattern, stem) if home else None
                if key is not None and not (home and name == base):
                    found[key] = (*found.get(key, ()), name)
                    break
        return [Backup(*key, tuple(sorted(found[key]))) for key in sorted(found)]

    def _named(self, text: str, number: int) -> str:
        path = f"{self.path}.{text}.{number}" if number else f"{self.path}.{text}"
        return path if self.namer is None else os.fspath(self.namer(path))

    def _parse_named(self, path: str) -> Optional[Key]:
        for text, number in self._guesses(os.path.basename(path)):
            # The user's namer, on a name that it may never have seen.
            with contextlib.suppress(Exception):
                if os.path.abspath(self.backup_path(text, number)) == path:
                    return _stamp(text, self.suffix) or 0, text, number
        return None

    def _guesses(self, stem: str) -> Iterator[Tuple[str, int]]:
        produced = default_ext_match(self.suffix)
        # The user's own may be anchored to the end of a name that goes on here.
        for pattern in {self.pattern: None, produced: None}:
            match = pattern.search(stem)
            while match:
                # The user's own may find dates that a namer has written in another way.
                if _stamp(match[0], self.suffix) is not None or self.pattern != produced:
                    around = _NUMBER.findall(stem[match.end() :]) + _NUMBER.findall(stem[: match.start()])
                    yield from ((match[0], number) for number in (0, *map(int, around)))
                match = pattern.search(stem, match.start() + 1)


class Backup(NamedTuple):
    """One backup, its plain file and its `.gz` where both exist; backups sort oldest first."""

    stamp: int  # the wall clock at the period's start, as seconds; 0 where the text is no date
    text: str  # the period as the name has it
    number: int  # 0 is the first backup of a period, which has no number in its name
    names: Tuple[str, ...]


def next_number(backups: Iterable[Backup], text: str) -> int:
    """The number for one more backup of the period *text*: above all of its numbers, 0 where it has none."""
    return max((backup.number + 1 for backup in backups if backup.text == text), default=0)


def _spelled_out(suffix: str) -> str:
    return re.sub(r"%([%FTRDh])", lambda found: _COMPOSITES.get(found[1], found[0]), suffix)


@lru_cache(maxsize=64)
def default_ext_match(suffix: str) -> Pattern[str]:
    """A pattern for what *suffix* can produce; for the five standard ones it is CPython 3.13's `extMatch`."""
    parts = re.split(r"%([-#_0^]?)(.)", _spelled_out(suffix), flags=re.DOTALL)
    pattern = re.escape(parts[0]).replace(r"\-", "-")
    for flag, letter, literal in zip(parts[1::3], parts[2::3], parts[3::3]):
        one = _DIRECTIVES.get(letter, r"[^/\\.]+?")
        pattern += r"\d+" if flag and one.startswith(r"\d") else one
        pattern += re.escape(literal).replace(r"\-", "-")
    return re.compile(rf"(?<!\d){pattern}(?!\d)", re.ASCII)


_STANDARD_MATCHES = frozenset(default_ext_match(suffix).pattern for suffix in SUFFIXES.values())


def naming_for(
    base_path: str, suffix: str, ext_match: Union[str, Pattern[str]], namer: Optional[Namer] = None
) -> Naming:
    """Return how the backups of the log at *base_path* (absolute) are named; *namer* maps a whole path to one."""
    pattern = re.compile(ext_match)
    if pattern.pattern in _STANDARD_MATCHES:  # the user has changed *suffix* at most
        pattern = default_ext_match(suffix)
    return Naming(base_path, suffix, pattern, namer)


# A rotation lists the directory several times, and most names were there the last time.
@lru_cache(maxsize=20_000)
def _parse_plain(base: str, suffix: str, pattern: Pattern[str], name: str) -> Optional[Key]:
    if not name.startswith(base + "."):
        return None
    rest = name[len(base) + 1 :]
    numbered = _NUMBERED.fullmatch(rest)
    for text, number in ((rest, 0), (numbered[1], int(numbered[2])) if numbered else ("", 0)):
        if text and pattern.fullmatch(text):
            stamp = _stamp(text, suffix)
            if stamp is not None:
                return stamp, text, number
    return None


@lru_cache(maxsize=64)
def reader_of(suffix: str) -> Optional[Callable[[str], Optional[int]]]:
    """Return what makes a `Backup`'s stamp of a text that *suffix* produces; None where no date can be read."""
    if suffix in SUFFIXES.values():
        return partial(_read_standard, suffix)
    spelled_out = _spelled_out(suffix)
    # A format without a year warns in CPython 3.13; and without one there is no order in time.
    if not re.search(r"%[-#]?[YyG]", spelled_out):
        return None
    plain = re.sub(r"%[-#]", "%", spelled_out)
    # Weeks (%W, %V) can be read only together with a day.
    for reader in (partial(_read, suffix, plain), partial(_read, suffix, plain + " %u", days="1234567")):
        if reader(time.strftime(suffix, _SAMPLE)) is not None:
            return reader
    return None


@lru_cache(maxsize=16_384)
def _stamp(text: str, suffix: str) -> Optional[int]:
    """Return a `Backup`'s stamp, None for a date that no calendar has."""
    reader = reader_of(suffix)
    return 0 if reader is None else reader(text)


def _read_standard(suffix: str, text: str) -> Optional[int]:
    # A fifth of the time of strptime(), for a process that meets a thousand backups at once.
    if not default_ext_match(suffix).fullmatch(text):
        return None
    # In whole numbers only: an object may log while the interpreter ends, and `datetime` has gone then.
    numbers = [*map(int, text.replace("_", "-").split("-")), 0, 0, 0]
    year, month, day, hour, minute, second = numbers[:6]
    lengths = [0, 31, 28 + calendar.isleap(year), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    is_day = year >= 1 and 1 <= month <= 12 and 1 <= day <= lengths[month]
    if not (is_day and hour < 24 and minute < 60 and second < 60):
        return None
    days = (year - 1970) * 365 + calendar.leapdays(1970, year) + sum(lengths[:month]) + day - 1
    return days * 86_400 + hour * 3_600 + minute * 60 + second


def _read(suffix: str, form: str, text: str, days: str = "") -> Optional[int]:
    for more in [f" {day}" for day in days] or [""]:
        # It imports, which ends before the interpreter does.
        with contextlib.suppress(ValueError, ImportError):
            parsed = time.strptime(text + more, form)
            if time.strftime(suffix, parsed) == text:
                return calendar.timegm(parsed)
    return None
