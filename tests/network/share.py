"""One share, mounted on both machines of a laboratory, and one log on it with its writers and its judge."""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path
from typing import Any

from lab import HERE, Lab, Process

SECONDS = 120.0  # the longest that any answer may take: the machines are emulated
LOCAL = "ext4"
Verdict = dict[str, Any]

_numbers = itertools.count(1)


def files_for_the_lab() -> dict[str, Path]:
    """What the tests need inside: the library as it is tested here, and the programs that use it."""
    return {
        "concurrent_log_handler": _origin("concurrent_log_handler").parent,
        "portalocker": _origin("portalocker").parent,
        "process_helpers.py": _origin("process_helpers"),
        **{name: HERE / name for name in ("writer.py", "judge.py")},
    }


def _origin(module: str) -> Path:
    found = importlib.util.find_spec(module)
    assert found is not None
    return Path(found.origin or "")


class Writer:
    """A `writer.py` on one of the machines."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.ready: dict[str, Any] = {}

    def wait_until_ready(self) -> Writer:
        self.ready = self.answer()
        return self

    def tell(self, line: str) -> Writer:
        self.process.tell(line)
        return self

    def answer(self, seconds: float = SECONDS) -> dict[str, Any]:
        """Return what it says next; anything else than JSON is its traceback."""
        line = self.process.line(seconds)
        if line is None or not line.startswith("{"):
            self.process.wait(seconds)
            raise AssertionError("".join(self.process.seen))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def do(self, line: str) -> float:
        """Have it do *line*; returns the seconds that it took."""
        return float(self.tell(line).answer()["seconds"])

    def end(self) -> None:
        """Close the handler, and wait for the end of the process."""
        self.do("close")
        self.process.close_input()
        self.process.wait(SECONDS)


class Share:
    """A fresh directory on the share, and the diaries of those who write there."""

    def __init__(self, lab: Lab, kind: str) -> None:
        self.lab = lab
        self.kind = kind
        number = next(_numbers)
        self.on_server = f"/data/{kind[:3].replace('ext', 'ext4')}/{number}"
        self.on_machines = f"/mnt/{number}"
        self.server(f"rm -f /acknowledged/*; mkdir -m 777 {self.on_server}")

    def server(self, script: str, seconds: float = SECONDS) -> str:
        """Run a shell script on the server, in the log's directory if there is one yet."""
        return self.lab.run(
            0, "sh", "-ec", f"cd {self.on_server} 2>/dev/null || true\n{script}", seconds=seconds
        )

    def machine(self, number: int, script: str, seconds: float = SECONDS) -> str:
        """Run a shell script on one of the machines, in the log's directory."""
        return self.lab.run(number, "sh", "-ec", f"cd {self.on_machines}\n{script}", seconds=seconds)

    def cut_power(self) -> str:
        """Return where the server's disk is mounted as it would be had the power failed now."""
        self.server(
            "while umount /cut 2>/dev/null; do :; done; mkdir -p /cut; modprobe loop\n"
            "dd if=/dev/vdc of=/tmp/cut iflag=direct conv=sparse bs=1M status=none\n"  # past the cache
            "mount -o loop /tmp/cut /cut"
        )
        return "/cut/"

    def start(self, machine: int, name: str, handler: str = "size", **options: Any) -> Writer:
        """Start a writer; it is told of when it is ready."""
        what = {
            "handler": handler,
            "filename": f"{self.on_machines}/app.log",
            "encoding": "utf-8",
            "lock_timeout": 60.0,  # the machines are slow
            **options,
        }
        return Writer(self.lab.start(machine, "python3", "-S", "/lab/writer.py", name, json.dumps(what)))

    def writers(self, count: int, handler: str = "size", **options: Any) -> list[Writer]:
        """Start *count* writers, in turns on the two machines, and return them when they are ready."""
        started = [self.start(1 + each % 2, f"writer{each}", handler, **options) for each in range(count)]
        return [each.wait_until_ready() for each in started]

    def verdict(self, header: str = "", below: str = "/data/") -> Verdict:
        """Return what the judge finds; *below*: where the server's disk is mounted."""
        where = below + self.on_server[len("/data/") :]
        found: Verdict = json.loads(
            self.lab.run(0, "python3", "-S", "/lab/judge.py", where, header, seconds=SECONDS)
        )
        return found


def faults(verdict: Verdict, max_bytes: float = float("inf")) -> Verdict:
    """Return what must not be, with the first few of each kind."""
    bad = ("lost", "refused", "refused_but_written", "unknown", "doubled", "torn", "others", "trouble")
    found = {name: verdict[name] for name in bad}
    found["over"] = [(name, size) for name, size in verdict["sizes"].items() if size >= max_bytes]
    return {name: (len(what), what[:3]) for name, what in found.items() if what}


def backups(verdict: Verdict) -> list[str]:
    return [name for name in verdict["sizes"] if name != "app.log"]
