"""
Print what two machines lose on each kind of share, and what a record costs there, as a Markdown table.

    python tests/network/table.py [--kinds ext4,nfs42,smb-nolease] >table.md

It measures the handler beside the published package and the standard library's, on a local disk first.  The
machines are emulated, so times say something only beside each other: *ms* is what the quickest record (or batch,
divided by its records) took while nobody else wrote, and *times* how many times that of the first mount.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE.parent / "benchmarks")]

from lab import Lab, open_lab  # noqa: E402
from peers import CLH, directory_of  # noqa: E402
from share import LOCAL, Share, Writer, backups, files_for_the_lab  # noqa: E402

KINDS = (
    *(LOCAL, "nfs42", "nfs40", "nfs3", "nfs42-noac", "nfs42-lookupcache=none", "nfs3-nolock"),
    *("smb", "smb-nolease", "smb-nobrl"),
)
LIMIT = 1500
RECORDS = 40
SIZE = {"handler": "size", "maxBytes": LIMIT, "backupCount": 900}
TIMED = {"handler": "timed", "maxBytes": LIMIT, "when": "S"}


def at_once(team: list[Writer]) -> None:
    for _ in range(2):
        for writer in team:
            writer.tell(f"emit {RECORDS}")
        for writer in team:
            writer.answer()


def batches(team: list[Writer]) -> None:
    for _ in range(2):
        for writer in team:
            writer.tell(f"batch {RECORDS}")
        for writer in team:
            writer.answer()


def now_and_then(team: list[Writer]) -> None:
    for _ in range(8):
        team[0].do("emit 25")
        team[1].do("emit 1")


ROWS: tuple[tuple[str, str, dict[str, Any], Any], ...] = (
    ("this one", "both at once", {**SIZE, "use_gzip": True}, at_once),
    ("this one", "both at once, in batches", SIZE, batches),
    ("this one", "both at once, timed", TIMED, at_once),
    ("this one", "one of them now and then", SIZE, now_and_then),
    ("CLH 0.9.31", "both at once", {**SIZE, "handler": "clh"}, at_once),
    ("CLH 0.9.31", "one of them now and then", {**SIZE, "handler": "clh"}, now_and_then),
    ("standard library", "both at once", {**SIZE, "handler": "stdlib"}, at_once),
)


def measured(lab: Lab, kind: str, options: dict[str, Any], act: Any) -> tuple[list[int], float]:
    """Return the counts of one row, and the seconds of a record."""
    lab.mount(kind)
    share = Share(lab, kind)
    try:
        team = share.writers(2, **options)
        for writer in team:
            writer.do("emit 1")
        command, records = ("batch", 10) if act is batches else ("emit", 1)
        seconds = min(team[0].do(f"{command} {records}") / records for _ in range(12))
        act(team)
        for writer in team:
            writer.end()
        verdict = share.verdict()
    finally:
        lab.run(0, "sh", "-c", "pkill -KILL -f [w]riter.py || true")
        lab.forget()
    counts = [
        verdict["acknowledged"],
        *(len(verdict[what]) for what in ("lost", "doubled", "torn", "refused")),
    ]
    return [*counts, len(backups(verdict))], seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kinds", default=",".join(KINDS), help="what to mount, separated by commas (%(default)s)"
    )
    kinds = parser.parse_args().kinds.split(",")
    heads = ("acknowledged", "lost", "doubled", "torn", "refused", "backups", "ms", "times")
    print("| mount | handler | scenario |", " | ".join(heads), "|")
    print("|---|---|---|" + "--:|" * len(heads), flush=True)
    with open_lab({**files_for_the_lab(), "clh": directory_of(CLH)}) as lab:
        first: dict[tuple[str, str], float] = {}
        for kind in kinds:
            for handler, scenario, options, act in ROWS:
                try:
                    counts, seconds = measured(lab, kind, options, act)
                    beside = first.setdefault((handler, scenario), seconds)
                    times = [f"{seconds * 1e3:.2f}", f"{seconds / beside:.0f}"]
                except (AssertionError, OSError) as error:
                    counts, times = [], [f"{type(error).__name__}: {str(error)[-60:]!r}"]
                print(
                    f"| {kind} | {handler} | {scenario}", *counts, *times, sep=" | ", end=" |\n", flush=True
                )


if __name__ == "__main__":
    main()
