"""Measures this library beside the standard library and published peers, and prints a table.

`run.py` owns the order of the rounds and the figures; `scenarios` says what is compared, `worker`
measures one subject in a process of its own, `peers` installs what is not ours.

The machine is never quiet, so the subjects take turns in many short rounds; the best round of each
is what the code costs, and the median shows how noisy it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peers
from scenarios import LABELS, METRICS, SCENARIOS, Part, Target

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "src"
ANSWER_SECONDS = 120


class SubjectFailedError(Exception):
    """A worker ended or hung; the text is the end of what it said."""


@dataclass
class Outcome:
    """All rounds of one part: per subject, per metric."""

    part: Part
    rounds: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def best(self, subject: str, metric: str) -> float | None:
        # What was lost is a property of the subject, not noise: there the worst round counts.
        pick = max if metric == "lost" else min
        return self._pick(subject, metric, pick)

    def median(self, subject: str, metric: str) -> float | None:
        return self._pick(subject, metric, statistics.median)

    def metrics(self) -> list[str]:
        found = {metric for rounds in self.rounds.values() for one in rounds for metric in one}
        return [metric for metric in METRICS if metric in found]

    def _pick(self, subject: str, metric: str, pick: Any) -> float | None:
        values = [one[metric] for one in self.rounds.get(subject, []) if metric in one]
        return pick(values) if values else None


class Worker:
    """One subject in a process group of its own, answering a line of JSON for each line it gets."""

    def __init__(self, part: Part, subject: str, base: Path) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"{subject}-", dir=base))
        self._errors = (self.directory / "stderr").open("w+b")
        logs = self.directory / "logs"
        logs.mkdir()
        arguments = [part.measure, subject, str(logs), json.dumps(part.options)]
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), *arguments],
            env=environment_of(subject),
            start_new_session=True,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def answer(self) -> dict[str, Any]:
        line = b""
        deadline = time.monotonic() + ANSWER_SECONDS
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                msg = f"no answer within {ANSWER_SECONDS} s"
                raise SubjectFailedError(msg)
            piece = os.read(self._process.stdout.fileno(), 65536)
            if not piece:
                raise SubjectFailedError(self._last_words())
            line += piece
        return json.loads(line)

    def measure(self) -> dict[str, float]:
        try:
            self._process.stdin.write(b"go\n")
        except BrokenPipeError:
            raise SubjectFailedError(self._last_words()) from None
        return self.answer()

    def close(self) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "the worker ended without a word"


def environment_of(subject: str) -> dict[str, str]:
    """The environment in which the worker finds the library that *subject* names."""
    if subject.startswith("this"):
        paths = [SOURCE, peers.portalocker_alone()]
    elif subject.startswith(("clh", "guide")):
        paths = [peers.directory_of(peers.CLH)]
    elif subject == "loguru":
        paths = [peers.directory_of(peers.LOGURU)]
    else:
        paths = []
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}


def run_part(part: Part, base: Path, rounds: int, seconds: float, progress: Progress) -> Outcome:
    """Up to *rounds* rounds of every subject, in turns; no new round begins after *seconds*."""
    outcome = Outcome(part)
    workers: dict[str, Worker] = {}
    try:
        for subject in part.subjects:
            _start(outcome, workers, part, subject, base)
        deadline = time.monotonic() + seconds
        for number in range(rounds):
            for subject in list(workers):
                progress.show(f"{part.title}: round {number + 1} of {rounds}, {subject}")
                _one_round(outcome, workers, subject)
                if not part.repeatable and number + 1 < rounds:
                    workers.pop(subject).close()
                    _start(outcome, workers, part, subject, base)
            if time.monotonic() > deadline:
                break
    finally:
        progress.clear()
        for worker in workers.values():
            worker.close()
    return outcome


def _start(outcome: Outcome, workers: dict[str, Worker], part: Part, subject: str, base: Path) -> None:
    try:
        worker = Worker(part, subject, base)
    except peers.NotInstallableError as error:
        outcome.skipped[subject] = f"not installable: {error}"
        return
    workers[subject] = worker
    try:
        answer = worker.answer()
    except SubjectFailedError as error:
        answer = {"unavailable": f"failed: {error}"}
    if "ready" in answer:
        outcome.about[subject] = answer["ready"]
    else:
        outcome.skipped[subject] = answer["unavailable"]
        workers.pop(subject).close()


def _one_round(outcome: Outcome, workers: dict[str, Worker], subject: str) -> None:
    if subject not in workers:
        return
    try:
        outcome.rounds.setdefault(subject, []).append(workers[subject].measure())
    except SubjectFailedError as error:
        outcome.skipped[subject] = f"failed: {error}"
        workers.pop(subject).close()


def instructions(part: Part, base: Path, progress: Progress) -> Outcome:
    """Instructions per record under callgrind: two runs and their difference, which leaves out the start."""
    outcome = Outcome(part)
    if shutil.which("valgrind") is None:
        outcome.skipped = dict.fromkeys(part.subjects, "valgrind is not installed")
        return outcome
    few, many = 200, 2200
    for subject in part.subjects:
        progress.show(f"{part.title}: callgrind, {subject}")
        try:
            counts = [_callgrind(subject, {"records": n, "texts": many}, base) for n in (few, many)]
        except (SubjectFailedError, peers.NotInstallableError) as error:
            outcome.skipped[subject] = str(error)
            continue
        outcome.rounds[subject] = [{"instructions": (counts[1] - counts[0]) / (many - few)}]
    progress.clear()
    return outcome


def _callgrind(subject: str, options: dict[str, int], base: Path) -> int:
    directory = tempfile.mkdtemp(prefix=f"callgrind-{subject}-", dir=base)
    command = [
        "valgrind",
        "--tool=callgrind",
        f"--callgrind-out-file={directory}/out",
        sys.executable,
        str(HERE / "worker.py"),
        "count",
        subject,
        directory,
        json.dumps(options),
    ]
    done = subprocess.run(
        command,
        env={**environment_of(subject), "PYTHONHASHSEED": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=ANSWER_SECONDS,
    )
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if '"ready"' not in done.stdout or collected is None:
        said = json.loads(done.stdout)["unavailable"] if "unavailable" in done.stdout else done.stderr.strip()
        raise SubjectFailedError(said.splitlines()[-1])
    return int(collected[1])


class Progress:
    """One line on a terminal that is overwritten; nothing when the output is piped."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()

    def show(self, text: str) -> None:
        if self._live:
            print(f"\r\x1b[2K{text[:78]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._live:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


def table(name: str, outcome: Outcome) -> str:
    """The figures of one part, then its targets."""
    rounds = max((len(found) for found in outcome.rounds.values()), default=0)
    lines = [f"{name}: {outcome.part.title} ({rounds} rounds)"]
    for metric in outcome.metrics():
        meaning, unit, factor = METRICS[metric]
        lines.append(f"  {meaning + (f', {unit}' if unit else ''):<44}{'best':>10}{'median':>10}")
        for subject in outcome.rounds:
            best, median = outcome.best(subject, metric), outcome.median(subject, metric)
            if best is not None and median is not None:
                lines.append(f"    {LABELS[subject]:<42}{best * factor:>10.4g}{median * factor:>10.4g}")
    lines += [f"  skipped: {LABELS[subject]}: {why}" for subject, why in outcome.skipped.items()]
    lines += [f"  {verdict['text']}" for verdict in verdicts(outcome)]
    return "\n".join(lines) + "\n"


def verdicts(outcome: Outcome) -> list[dict[str, Any]]:
    """Each target of the part that could be measured, with whether it is met."""
    found = (_verdict(outcome, target) for target in outcome.part.targets)
    return [verdict for verdict in found if verdict is not None]


def _verdict(outcome: Outcome, target: Target) -> dict[str, Any] | None:
    best = outcome.best(target.subject, target.metric)
    meaning, unit, factor = METRICS[target.metric]
    what = f"{meaning}, {LABELS[target.subject]}"
    if best is None:
        return None
    if target.against is None:
        text = f"{what}: {best * factor:.4g} {unit}, target {target.limit * factor:.4g} {unit}"
        return _judged(text, best, target.limit)
    other = outcome.best(target.against, target.metric)
    if not other:
        return None
    medians = outcome.median(target.subject, target.metric) / outcome.median(target.against, target.metric)
    text = f"{what}: {best / other:.3g} × {LABELS[target.against]}, target {target.limit:.2f}"
    text += f" (of the medians: {medians:.3g})"
    return _judged(text, best / other, target.limit)


def _judged(text: str, value: float, limit: float) -> dict[str, Any]:
    met = value <= limit
    return {"text": f"{'met   ' if met else 'MISSED'} {text}", "value": value, "limit": limit, "met": met}


def as_json(name: str, outcome: Outcome) -> dict[str, Any]:
    subjects = {
        subject: {
            metric: {"best": outcome.best(subject, metric), "median": outcome.median(subject, metric)}
            for metric in outcome.metrics()
            if outcome.best(subject, metric) is not None
        }
        for subject in outcome.rounds
    }
    return {
        "scenario": name,
        "title": outcome.part.title,
        "measure": outcome.part.measure,
        "options": outcome.part.options,
        "rounds": {subject: len(found) for subject, found in outcome.rounds.items()},
        "subjects": subjects,
        "about": outcome.about,
        "skipped": outcome.skipped,
        "targets": verdicts(outcome),
    }


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    model = ""
    if Path("/proc/cpuinfo").exists():
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        found = re.search(r"model name\s*: (.+)", text)
        model = found[1] if found else ""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": model,
        "cores": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="example: run.py --scenario one --scenario four --json figures.json",
    )
    add = parser.add_argument
    names = [*SCENARIOS, "all"]
    add("--scenario", action="append", choices=names, help="may be repeated; default: one, four, eight")
    add("--rounds", type=int, help="rounds per subject at most (each scenario has a default)")
    add("--seconds", type=float, default=50, help="begin no round of a scenario after this (default 50)")
    add("--subjects", help="only these, separated by commas: " + ", ".join(LABELS))
    add("--instructions", action="store_true", help="also count instructions where one process logs")
    add("--json", type=Path, metavar="FILE", help="add the figures to this file, scenario by scenario")
    add("--dir", type=Path, help="measure on this disk (default: the temporary directory)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    names = options.scenario or ["one", "four", "eight"]
    if "all" in names:
        names = list(SCENARIOS)
    progress = Progress()
    base = Path(tempfile.mkdtemp(prefix="log-benchmark-", dir=options.dir))
    try:
        for name in names:
            results = []
            seconds = options.seconds / len(SCENARIOS[name])
            for part in SCENARIOS[name]:
                for outcome in measured(part, base, options, seconds, progress):
                    print(table(name, outcome), flush=True)
                    results.append(as_json(name, outcome))
            if options.json:
                save(options.json, name, results)
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return 0


def measured(
    part: Part, base: Path, options: argparse.Namespace, seconds: float, progress: Progress
) -> list[Outcome]:
    """The part's outcome, and that of the instruction count where it is asked for."""
    if options.subjects:
        wanted = options.subjects.split(",")
        part.subjects = [subject for subject in part.subjects if subject in wanted]
    outcomes = [run_part(part, base, options.rounds or part.rounds, seconds, progress)]
    if options.instructions and part.measure == "one":
        outcomes.append(instructions(part, base, progress))
    return outcomes


def save(path: Path, name: str, results: list[dict[str, Any]]) -> None:
    """Add the scenario to the figures in *path*."""
    figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"scenarios": {}}
    figures["machine"] = machine()
    figures["scenarios"][name] = results
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
