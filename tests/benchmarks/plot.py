"""Turns the figures of `run.py --json` into two pictures and a table for the docs.

    python tests/benchmarks/plot.py docs/_static/benchmarks.json

Nothing is measured here.  A picture draws its own background and follows the reader's light or
dark setting, so that it can stand on any page.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from scenarios import LABELS, METRICS

STATIC = Path(__file__).resolve().parents[2] / "docs" / "_static"
SUBJECTS = ["this", "this-background", "file", "rotating", "loguru", "clh"]
NAMES = {**LABELS, "rotating": "stdlib with a gzip rotator"}
WIDTH = 760
# Light and dark tones of one palette that colour-blind readers can tell apart.
STYLE = """
  text { font: 14px system-ui, -apple-system, Helvetica, Arial, sans-serif; fill: #24292f }
  .head { font-size: 17px; font-weight: 600 } .soft { fill: #57606a; font-size: 13px }
  .card { fill: #ffffff; stroke: #d0d7de } .grid { stroke: #d8dee4; stroke-width: 1 }
  .line { fill: none; stroke-width: 3; stroke-linejoin: round } .strong { font-weight: 600 }
  .this, .this-background { --c: #0a62b8 } .file, .rotating { --c: #6e7781 }
  .clh { --c: #c2410c } .loguru { --c: #7c3aed }
  .line, .stem { stroke: var(--c) } .dot, .name { fill: var(--c) }
  .stem { stroke-width: 6; stroke-linecap: round; opacity: .35 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .soft { fill: #9198a1 }
    .card { fill: #0d1117; stroke: #3d444d } .grid { stroke: #2a313c }
    .this, .this-background { --c: #58a6ff } .file, .rotating { --c: #9198a1 }
    .clh { --c: #ff9b5e } .loguru { --c: #c297ff }
    .name { fill: var(--c) }
  }
"""


def picture(height: int, title: str, subtitle: str, description: str, body: list[str]) -> str:
    """A whole SVG file with the card and the heading that both pictures share."""
    size = f'width="{WIDTH}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH} {height}" {size}>',
            f"<title>{escape(title)}</title>",
            f"<desc>{escape(description)}</desc>",
            f"<style>{STYLE}</style>",
            f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>',
            text(24, 34, title, "head"),
            text(24, 56, subtitle, "soft"),
            *body,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def dot(x: float, y: float, subject: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" class="dot {subject}"/>'


def throughput(figures: dict[str, Any]) -> str:
    """Records per second of all processes together, against their number."""
    parts = figures["scenarios"]["processes"]
    counts = [part["options"]["processes"] for part in parts]
    curves = {
        subject: [1 / part["subjects"][subject]["wall"]["best"] for part in parts]
        for subject in SUBJECTS
        if all(subject in part["subjects"] for part in parts)
    }
    left, right, top, bottom = 70, WIDTH - 210, 84, 356
    step = nice_step(max(max(curve) for curve in curves.values()))
    ceiling = step * math.ceil(max(max(curve) for curve in curves.values()) / step)
    xs = [left + 30 + (right - left - 60) * number / (len(counts) - 1) for number in range(len(counts))]

    def y(rate: float) -> float:
        return bottom - (bottom - top) * rate / ceiling

    marks = steps(step, ceiling)
    body = [line(left, y(mark), xs[-1], y(mark), "grid") for mark in marks]
    body += [text(left - 8, y(mark) + 5, f"{mark / 1000:.0f}k", "soft", "end") for mark in marks]
    body += [text(x, bottom + 24, str(count), "soft", "middle") for x, count in zip(xs, counts)]
    body.append(text((left + right) / 2, bottom + 46, "processes that write to one log", "soft", "middle"))
    for subject, curve in curves.items():
        points = " ".join(f"{x:.1f},{y(rate):.1f}" for x, rate in zip(xs, curve))
        body.append(f'<polyline class="line {subject}" points="{points}"/>')
        body += [dot(x, y(rate), subject) for x, rate in zip(xs, curve)]
    for subject, spot in spread({subject: y(curve[-1]) for subject, curve in curves.items()}).items():
        body.append(text(right - 16, spot - 2, NAMES[subject].partition(" (")[0], f"name strong {subject}"))
        body.append(text(right - 16, spot + 14, rate_of(subject, curves[subject][-1]), "soft"))
    said = "; ".join(f"{NAMES[subject]} {curve[-1]:,.0f}" for subject, curve in curves.items())
    return picture(
        bottom + 62,
        "Records per second",
        f"All processes together, 10 MB files, {on(figures)}",
        f"Records per second with {counts[-1]} processes: {said}.",
        body,
    )


def rate_of(subject: str, rate: float) -> str:
    limit = ", no lock, no rotation" if subject == "file" else ""
    return f"{rate / 1000:.0f}k/s{limit}"


def nice_step(highest: float) -> float:
    """A round distance that gives four to eight grid lines up to *highest*."""
    size = 10 ** math.floor(math.log10(highest))
    return next(step for step in (size / 10, size / 5, size / 2, size, size * 2) if highest / step <= 8)


def steps(step: float, ceiling: float) -> list[float]:
    return [step * number for number in range(round(ceiling / step) + 1)]


def spread(spots: dict[str, float]) -> dict[str, float]:
    """The same heights, moved apart where two labels would overlap."""
    placed: dict[str, float] = {}
    last = -math.inf
    for subject in sorted(spots, key=lambda name: spots[name]):
        last = placed[subject] = max(spots[subject], last + 38)
    return placed


def gzip_wait(figures: dict[str, Any]) -> str:
    """How long a process that only logs has to wait while another one rotates."""
    found = figures["scenarios"]["gzip-wait"][0]["subjects"]
    waits = {
        subject: found[subject]["worst_wait"]["median"] * 1000 for subject in SUBJECTS if subject in found
    }
    left, right, top, row = 300, WIDTH - 130, 92, 46
    low, high = -2, 4  # powers of ten, in milliseconds

    def x(milliseconds: float) -> float:
        return left + (right - left) * (math.log10(max(milliseconds, 10**low)) - low) / (high - low)

    bottom = top + row * len(waits)
    marks = {-2: "10 µs", -1: "0.1 ms", 0: "1 ms", 1: "10 ms", 2: "0.1 s", 3: "1 s", 4: "10 s"}
    body = [line(x(10**power), top - 8, x(10**power), bottom, "grid") for power in marks]
    body += [text(x(10**power), bottom + 20, name, "soft", "middle") for power, name in marks.items()]
    for number, (subject, wait) in enumerate(waits.items()):
        middle = top + row * number + row / 2 - 4
        lost = found[subject]["lost"]["best"]
        remark = in_words(wait) + (f", loses {lost:.0f} records" if lost else "")
        body.append(text(left - 14, middle + 5, NAMES[subject], f"name strong {subject}", "end"))
        body.append(line(left, middle, x(wait), middle, f"stem {subject}"))
        body.append(dot(x(wait), middle, subject))
        body.append(text(x(wait) + 12, middle + 5, remark, "strong"))
    said = "; ".join(f"{NAMES[subject]} {in_words(wait)}" for subject, wait in waits.items())
    return picture(
        bottom + 40,
        "Longest wait of a bystander while another process rotates with gzip",
        f"30 MB file, one log call every half millisecond, logarithmic, {on(figures)}",
        f"Longest wait: {said}.",
        body,
    )


def in_words(milliseconds: float) -> str:
    if milliseconds >= 100:
        return f"{milliseconds / 1000:.2f} s"
    return f"{milliseconds:.2f} ms" if milliseconds < 1 else f"{milliseconds:.1f} ms"


def on(figures: dict[str, Any]) -> str:
    machine = figures["machine"]
    return f"{machine['cores']} cores, Python {machine['python']}"


def tables(figures: dict[str, Any]) -> str:
    """All figures as Markdown."""
    machine = figures["machine"]
    where = f"{machine['system']}, {machine['processor'] or 'unknown processor'}, {machine['cores']} cores"
    blocks = [f"Measured on {machine['date']} with Python {machine['python']}, {where}."]
    for name, parts in figures["scenarios"].items():
        blocks += [by_processes(parts)] if name == "processes" else map(table, parts)
    return "\n\n".join(blocks) + "\n"


def by_processes(parts: list[dict[str, Any]]) -> str:
    """One column for each number of processes."""
    counts = [str(part["options"]["processes"]) for part in parts]
    title = "**Wall time per record, µs, by the number of processes, 10 MB files**"
    lines = [title, "", markdown(["", *counts]), "|---|" + "---:|" * len(counts)]
    for subject in SUBJECTS:
        if any(subject in part["subjects"] for part in parts):
            cells = (cell(part["subjects"].get(subject, {}), "wall") for part in parts)
            lines.append(markdown([LABELS[subject], *cells]))
    return "\n".join(lines)


def table(part: dict[str, Any]) -> str:
    metrics = [metric for metric in METRICS if any(metric in found for found in part["subjects"].values())]
    heads = [", ".join(filter(None, METRICS[metric][:2])) for metric in metrics]
    title = part["title"][0].upper() + part["title"][1:]
    lines = [f"**{title}**", "", markdown(["", *heads]), "|---|" + "---:|" * len(metrics)]
    for subject, found in part["subjects"].items():
        lines.append(markdown([LABELS[subject], *(cell(found, metric) for metric in metrics)]))
    return "\n".join(lines)


def cell(found: dict[str, Any], metric: str) -> str:
    if metric not in found:
        return "–"
    value = found[metric]["best"] * METRICS[metric][2]
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def markdown(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", type=Path, help="the file that run.py --json wrote")
    parser.add_argument("--to", type=Path, default=STATIC, help=f"where the results go (default {STATIC})")
    options = parser.parse_args()
    figures = json.loads(options.figures.read_text(encoding="utf-8"))
    options.to.mkdir(parents=True, exist_ok=True)
    results = {"benchmarks-table.txt": tables(figures)}
    if "processes" in figures["scenarios"]:
        results["throughput.svg"] = throughput(figures)
    if "gzip-wait" in figures["scenarios"]:
        results["gzip-wait.svg"] = gzip_wait(figures)
    for name, content in results.items():
        (options.to / name).write_text(content, encoding="utf-8")
        print(options.to / name)


if __name__ == "__main__":
    main()
