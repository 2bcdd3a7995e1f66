"""Each call into the operating system fails in turn, once: no acknowledged record is lost, nothing is left over."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from handler_support import contents, run_program

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the calls that Linux gets"),
    pytest.mark.slow,
    pytest.mark.chaos,
]

# The package binds some calls when it is imported, so the faults come first.
PROGRAM = """
import errno, fcntl, gzip, json, logging, os, re, shutil, sys

class Fault:
    on = False
    at = count = 0
    hit = ""

def failing(name, real):
    def call(*args, **kwargs):
        if Fault.on:
            Fault.count += 1
            if Fault.count == Fault.at:
                Fault.hit = name
                if name == "close":  # on Linux a descriptor is closed even then
                    real(*args, **kwargs)
                raise OSError(errno.EIO, f"injected into {name}")
        return real(*args, **kwargs)
    return call

could_utime = os.utime in os.supports_fd
for name in ("open", "close", "stat", "lstat", "fstat", "rename", "replace", "unlink", "link", "fchmod", "fchown",
             "fsync", "fdatasync", "dup", "utime", "scandir", "ftruncate", "pwrite", "pread", "write", "read"):
    setattr(os, name, failing(name, getattr(os, name)))
if could_utime:
    os.supports_fd.add(os.utime)
fcntl.flock = failing("flock", fcntl.flock)

from concurrent_log_handler import ConcurrentRotatingFileHandler

class Recording(ConcurrentRotatingFileHandler):
    def __init__(self, *args, **kwargs):
        self.failures = set()
        super().__init__(*args, **kwargs)

    def handleError(self, record):
        on, Fault.on = Fault.on, False
        self.failures.add(record.getMessage())
        Fault.on = on

def write(handler, number):
    handler._rotation.trouble.until = 0.0  # the pause after a rotation that failed is tested elsewhere
    handler.handle(logging.makeLogRecord({"msg": f"record {number:02d}"}))

def open_now():
    paths = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [path for path in paths if os.path.lexists(path)]

def text_of(directory, header):
    lines = []
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if name == ".__app.lock":
            continue
        with (gzip.open if name.endswith(".gz") else open)(path, "rt") as file:
            content = file.read().splitlines()
        if header is not None and content:
            first = content.pop(0)
            assert (first, content.count(header)) == (header, 0), (name, first, content)
        lines += content
    return lines

def one_round(directory, options, faulty):
    os.mkdir(directory)
    before = set(open_now())
    handler = Recording(os.path.join(directory, "app.log"), maxBytes=30, backupCount=50, lock_timeout=0.2, **options)
    Fault.hit = ""
    for number in range(12):
        Fault.on = number == faulty
        try:
            write(handler, number)
        finally:
            Fault.on = False
    handler.close()
    lines = text_of(directory, options.get("header"))
    names = set(os.listdir(directory))
    wrong = []
    for number in range(12):
        text = f"record {number:02d}"
        times = lines.count(text)
        if times > 1 or (times == 0 and text not in handler.failures):
            wrong.append(f"{text} {times} times")
    strange = [line for line in lines if not re.fullmatch("record [0-9][0-9]", line)]
    wrong += [f"torn: {line!r}" for line in strange]
    usual = re.compile(r"\\.__app\\.lock|app\\.log(\\.\\d+(\\.gz)?)?")
    wrong += [f"left over: {name}" for name in names if not usual.fullmatch(name)]
    if options.get("use_gzip"):
        wrong += [f"still plain: {name}" for name in names if re.fullmatch(r"app\\.log\\.\\d+", name)]
    if set(open_now()) != before:
        wrong += [f"open: {os.readlink(path)}" for path in sorted(set(open_now()) - before)]
    shutil.rmtree(directory)
    return wrong

options, faulty = json.loads(sys.argv[1]), int(sys.argv[2])
failed = 0
for at in range(1, 1000):
    Fault.at, Fault.count = at, 0
    try:
        wrong = one_round("round", options, faulty)
    except Exception as error:
        import traceback
        print(f"call {at}, {Fault.hit}: raised out of the logging call:", file=sys.stderr)
        traceback.print_exc()
        break
    if not Fault.hit:
        break
    if wrong:
        print(f"call {at}, {Fault.hit}: {', '.join(wrong)}", file=sys.stderr)
print(at)
"""


@pytest.mark.parametrize(
    "options",
    [
        "{}",
        '{"chmod": 384}',
        '{"use_gzip": true}',
        '{"use_gzip": true, "chmod": 384}',
        '{"keep_file_open": false}',
        '{"header": "#", "fsync": true}',
        '{"header": "#", "fsync": true, "use_gzip": true, "keep_file_open": false}',
        '{"shared_between_machines": true, "use_gzip": true}',
    ],
)
@pytest.mark.parametrize("faulty", [0, 1, 2, 6], ids=["first record", "second", "rotation", "late rotation"])
def test_every_call_fails_once(memory: Path, options: str, faulty: int) -> None:
    """What the record needs goes to `handleError`; what a rotation or a compression needs, costs no record."""
    steps = int(run_program(PROGRAM, memory, options, str(faulty)))

    assert 4 < steps < 999
    assert contents(memory) == {}
