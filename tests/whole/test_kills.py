"""kill -9 at any moment: every acknowledged record is there, once, and nothing else stays behind.

At random, many times in a row; and after each single file-system step of a rotation, a compression
and the start, one by one.  Then a healthy process carries on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("there is no SIGKILL", allow_module_level=True)

from process_helpers import check, run_program

pytestmark = [pytest.mark.slow, pytest.mark.chaos, pytest.mark.timeout(180)]

# The victim rotates once, half-way through its records.  Records are about 45 bytes.
EXHAUSTIVE = """
steps = Steps()
import concurrent_log_handler
import shutil
from pathlib import Path

def fresh(where, files, options):
    # A chain as a healthy process left it.
    logs = Path(where)
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    def fill():
        handler = open_log(str(logs / "app.log"), **{**options, "maxBytes": 0})
        for number in range(files):
            write(handler, "old", range(number * 5, number * 5 + 5))
            if number < files - 1:
                handler.doRollover()
        assert not handler.failures, handler.failures
    run_children(fill)
    return logs

def victim(logs, options, last, half, name="victim", count=8):
    # Returns the acknowledged numbers, and the killed child's steps (None if it finished).
    reader, writer = os.pipe()
    def work():
        handler = open_log(str(logs / "app.log"), **options)
        steps.arm(last, half)
        for number in range(count):
            write(handler, name, [number])
            if not handler.failures:
                os.writev(writer, [b"%d\\n" % number])
        handler.close()
        os.writev(writer, [("steps " + " ".join(steps.names)).encode()])
    child = start(work)
    os.close(writer)
    with open(reader) as acknowledged:
        lines = acknowledged.read().splitlines()
    [status] = join(child)
    if status == 0:
        assert lines[-1].startswith("steps ")
        return [int(line) for line in lines[:-1]], lines[-1].split()[1:]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    return [int(line) for line in lines], None

def carry_on(logs, options, name="healthy"):
    def work():
        handler = open_log(str(logs / "app.log"), **options)
        write(handler, name, range(20))
        assert not handler.failures, handler.failures
        handler.close()
    run_children(work)

def each_step(options, files, half=False):
    last = 0
    while True:
        last += 1
        logs = fresh("logs", files, options)
        acknowledged, done = victim(logs, options, last, half)
        yield last, logs, acknowledged, done
        if done is not None:
            assert last == len(done) + 1
            print(len(done), *done)
            return
"""

FORMS = {
    "plain": {},
    "gzip": {"use_gzip": True},
    "opened each time": {"keep_file_open": False},
    "chmod": {"chmod": 0o640},
    "shared": {"shared_between_machines": True, "use_gzip": True},
    "without a count": {"backupCount": 0, "max_total_bytes": "1 MB"},
}


@pytest.mark.parametrize("half", [False, True], ids=["after the step", "half-way through writes"])
@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
def test_killed_after_each_single_step(memory: Path, options: dict[str, object], half: bool) -> None:
    """A chain of three files with room for more; the log is full, so the victim rotates."""
    output = run_program(
        EXHAUSTIVE
        + f"""
options = {{"maxBytes": 400, "backupCount": 20, **{options}}}
for last, logs, acknowledged, done in each_step(options, 3, {half}):
    carry_on(logs, options)
    try:
        check(logs, {{"old": range(15), "victim": acknowledged, "healthy": range(20)}},
              perhaps=[("victim", len(acknowledged))], max_bytes=400, torn=int({half}))
    except AssertionError as error:
        raise AssertionError(f"killed after step {{last}}, acknowledged {{acknowledged}}") from error
""",
        memory,
        seconds=170,
    )

    count, *names = output.split()
    assert int(count) >= 20
    assert "rename" in names
    assert "flock" in names
    assert names.count("pwrite") + names.count("write") >= 8


@pytest.mark.parametrize("options", [{}, {"use_gzip": True}], ids=["plain", "gzip"])
def test_a_full_chain_loses_only_its_oldest_file(tmp_path: Path, options: dict[str, object]) -> None:
    """The newest `backupCount` files are complete after a kill at any step, and the next rotation closes the gap."""
    run_program(
        EXHAUSTIVE
        + f"""
options = dict(maxBytes=400, backupCount=3, **{options})
for last, logs, acknowledged, done in each_step(options, 4):
    kept = {{"old": range(5, 20), "victim": acknowledged}}
    try:
        check(logs, kept, perhaps=[("victim", len(acknowledged)), *[("old", n) for n in range(5)]],
              backup_count=3, tidy=False, both_forms=True)
        carry_on(logs, options)
        records = records_of(logs)[0]
        healthy = [number for writer, number in records if writer == "healthy"]
        assert healthy == list(range(healthy[0], 20)) and len(healthy) >= 8, healthy
        check(logs, {{"healthy": healthy}}, perhaps=set(records) - {{("healthy", n) for n in healthy}},
              max_bytes=400, backup_count=3)
    except AssertionError as error:
        raise AssertionError(f"killed after step {{last}}, acknowledged {{acknowledged}}") from error
""",
        tmp_path,
        seconds=170,
    )


def test_killed_twice_while_compressing(tmp_path: Path) -> None:
    """The second victim inherits what the first left, among it a backup with and without `.gz`."""
    output = run_program(
        EXHAUSTIVE
        + """
options = dict(maxBytes=400, backupCount=20, use_gzip=True)
steps.counted -= {"flock", "close", "fsync", "fchown", "fchmod", "utime", "pwrite"}  # what changes no name
seen = []
twice = 0
for first, logs, acknowledged, done in each_step(options, 3):
    found = {"a part" if name.endswith(".part") else name for name in listing(logs)}
    if found in seen or done is not None:
        continue
    seen.append(found)
    shutil.rmtree("saved", ignore_errors=True)
    shutil.copytree(logs, "saved")
    second = 0
    finished = None
    while finished is None:
        second += 1
        twice += 1
        again = Path("again")
        shutil.rmtree(again, ignore_errors=True)
        shutil.copytree("saved", again)
        more, finished = victim(again, options, second, False, "second", 10)
        carry_on(again, options)
        try:
            check(again, {"old": range(15), "victim": acknowledged, "second": more, "healthy": range(20)},
                  perhaps=[("victim", len(acknowledged)), ("second", len(more))], max_bytes=400)
        except AssertionError as error:
            raise AssertionError(f"killed after step {first}, then {second}; left: {found}") from error
print(twice)
""",
        tmp_path,
        seconds=170,
    )

    assert int(output.split()[-1]) > 60


@pytest.mark.parametrize(
    "options",
    [{}, {"use_gzip": True}, {"use_gzip": True, "background_gzip": True}],
    ids=["plain", "gzip", "background"],
)
def test_killed_at_random_many_times(tmp_path: Path, options: dict[str, object]) -> None:
    """Two of three writers are killed and replaced all the time; each tells through a pipe what was acknowledged."""
    output = run_program(
        f"""
        import json
        options = {options}
        chance = random.Random(int(sys.argv[1]))
        handler_options = dict(maxBytes=2000, **options)
        stop, stopped = os.pipe()
        def victim(name, writer):
            handler = open_log(**handler_options)
            number = 0
            while True:
                write(handler, name, [number])
                assert not handler.failures, handler.failures
                os.write(writer, b"%d\\n" % number)
                number += 1
        def steady():
            import select
            handler = open_log(**handler_options)
            number = 0
            while not select.select([stop], [], [], 0)[0]:
                write(handler, "steady", [number])
                number += 1
                time.sleep(0.001)
            assert not handler.failures, handler.failures
            handler.close()
            os.write(1, b"%s\\n" % json.dumps(["steady", number, False]).encode())
        def one_after_another(place, rounds):
            chance = random.Random(int(sys.argv[1]) + place)
            for each in range(rounds):
                name = f"{{place}}-{{each}}"
                reader, writer = os.pipe()
                child = start(lambda: victim(name, writer))
                os.close(writer)
                acknowledged = os.read(reader, 64)
                time.sleep(chance.random() ** 2 * 0.03)
                os.kill(child, signal.SIGKILL)
                [status] = join(child)
                assert os.WIFSIGNALED(status), status
                while chunk := os.read(reader, 65536):
                    acknowledged += chunk
                os.close(reader)
                os.write(1, b"%s\\n" % json.dumps([name, acknowledged.count(b"\\n"), True]).encode())
        children = [start(lambda place=place: one_after_another(place, 16)) for place in range(2)]
        healthy = start(steady)
        assert join(*children) == [0, 0]
        os.write(stopped, b"x")
        assert join(healthy) == [0]
        """,
        tmp_path,
        hash(str(tmp_path)) % 1000,
    )
    rows = [json.loads(line) for line in output.splitlines()]
    expected = {name: range(count) for name, count, _ in rows}
    perhaps = [(name, count) for name, count, killed in rows if killed]
    run_program(
        f"""
        handler = open_log(maxBytes=2000, **{options})
        write(handler, "last", range(100))
        handler.close()
        """,
        tmp_path,
    )

    expected["last"] = range(100)
    check(tmp_path / "logs", expected, perhaps=perhaps, max_bytes=2000, torn=len(perhaps))
    assert len(expected) == 34
