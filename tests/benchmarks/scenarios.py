"""What is compared with what, and how far each number may go.  Data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# How a number is shown: what it is, its unit, and the factor from seconds, bytes or a count.
METRICS = {
    "cpu": ("CPU per record", "µs", 1e6),
    "wall": ("wall time per record", "µs", 1e6),
    "instructions": ("instructions per record", "k", 1e-3),
    "worst_wait": ("worst wait of a bystander", "ms", 1e3),
    "call": ("the call that rotates", "ms", 1e3),
    "memory": ("peak memory above idle", "MB", 1e-6),
    "median": ("median call", "µs", 1e6),
    "p99": ("99th percentile of the calls", "µs", 1e6),
    "worst_call": ("slowest call", "ms", 1e3),
    "lost": ("records lost", "", 1),
}

LABELS = {
    "this": "this library",
    "this-background": "this library, background_gzip",
    "this-timed": "this library, timed",
    "clh": "CLH 0.9.31",
    "clh-timed": "CLH 0.9.31, timed",
    "file": "stdlib FileHandler (no lock)",
    "rotating": "stdlib RotatingFileHandler (no lock)",
    "raw": "raw: format, flock, stat, write",
    "guide": "stdlib queue over CLH 0.9.31",
    "null": "a NullHandler: what logging itself costs",
    "loguru": "loguru enqueue=True",
}


@dataclass
class Target:
    """*metric* of *subject* is at most *limit* times *against*, or *limit* itself (seconds, bytes)."""

    metric: str
    subject: str
    limit: float
    against: str | None = None


@dataclass
class Part:
    """One measure of `worker`, run for several subjects in turns."""

    title: str
    measure: str
    subjects: list[str]
    rounds: int
    options: dict[str, Any] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    repeatable: bool = True


def _many(processes: int, subjects: list[str], rounds: int) -> Part:
    who = "one process" if processes == 1 else f"{processes} processes at once"
    options = {"processes": processes, "records": 1000}
    return Part(f"{who}, 10 MB files", "many", subjects, rounds, options)


_ONE = Part(
    "one process, 10 MB files", "one", ["this", "raw", "file", "rotating", "clh"], 100, {"records": 2000}
)
_ONE.targets = [
    Target("cpu", "this", 0.45, "clh"),
    Target("cpu", "this", 0.80, "rotating"),
    Target("cpu", "this", 1.15, "raw"),
]

_FOUR = _many(4, ["this", "raw", "file", "clh"], 40)
_FOUR.targets = [Target("wall", "this", 0.36, "clh"), Target("wall", "this", 1.8, "file")]

_EIGHT = _many(8, ["this", "raw", "file", "clh"], 25)
_EIGHT.targets = [Target("wall", "this", 0.32, "clh")]

_WAIT = Part("a 30 MB file is rotated with gzip", "gzip-wait", ["this", "this-background", "rotating"], 8)
_WAIT.subjects += ["clh", "loguru"]
_WAIT.targets = [
    Target("worst_wait", "this", 0.02, "clh"),
    Target("call", "this", 0.5, "clh"),
    Target("worst_wait", "this-background", 0.02, "clh"),
    Target("call", "this-background", 0.02, "clh"),
]

_SMALL = Part("4 processes at once, 200 kB files, gzip", "many", ["this", "this-background", "clh"], 12)
_SMALL.options = {"processes": 4, "records": 1600, "max_bytes": 200_000, "gzip": True}
_SMALL.targets = [Target("wall", "this", 0.40, "clh")]

_MEMORY = Part("a 200 MB file is compressed", "gzip-memory", ["this", "this-background", "clh"], 1)
_MEMORY.targets = [Target("memory", "this", 20e6), Target("memory", "this-background", 20e6)]

_BURST = Part("a burst of 5,000 records through a queue", "burst", ["this", "guide"], 30, {"records": 5000})
_BURST.targets = [Target("wall", "this", 0.28, "guide")]

_LATENCY = Part(
    "a thread logs 2,000 records a second through a queue", "latency", ["this", "guide", "null"], 8
)
_LATENCY.options = {"records": 2000}
# The limit of every queue: a handler that does nothing, in a program that is otherwise the same.
_LATENCY.targets = [Target("median", "this", 1.25, "null"), Target("p99", "this", 1.25, "null")]
_LATENCY.targets += [Target("median", "this", 0.55, "guide")]

_LATENCY_GZIP = Part("the same during a 30 MB gzip rotation", "latency-gzip", ["this", "guide"], 4)
_LATENCY_GZIP.options = {"records": 4000}
_LATENCY_GZIP.repeatable = False
_LATENCY_GZIP.targets = [Target("worst_call", "this", 0.010), Target("lost", "this", 0)]

_TIMED = Part(
    "timed rotation, one process", "one", ["this-timed", "this", "clh-timed"], 60, {"records": 2000}
)
_TIMED.targets = [Target("cpu", "this-timed", 0.35, "clh-timed"), Target("cpu", "this-timed", 1.2, "this")]

_CHAIN = Part("one rotation with 1,000 backups in place", "full-chain", ["this", "this-timed"], 8)
_CHAIN.subjects += ["clh", "clh-timed"]
_CHAIN.options = {"backups": 1000}
_CHAIN.targets = [Target("call", "this", 0.020), Target("call", "this-timed", 0.020)]

SCENARIOS: dict[str, list[Part]] = {
    "one": [_ONE],
    "four": [_FOUR],
    "eight": [_EIGHT],
    "processes": [_many(number, ["this", "file", "clh", "loguru"], 15) for number in (1, 2, 4, 8)],
    "gzip-wait": [_WAIT],
    "gzip-four": [_SMALL],
    "gzip-memory": [_MEMORY],
    "patterns": [_BURST, _LATENCY, _LATENCY_GZIP],
    "timed": [_TIMED, _CHAIN],
}
