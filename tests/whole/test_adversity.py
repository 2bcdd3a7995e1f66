"""What others do to the files, the disk, the lock holder and the descriptors while processes log."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("there is no fork", allow_module_level=True)

from process_helpers import check, records_of, run_program

each_form = pytest.mark.parametrize(
    "options",
    [{}, {"use_gzip": True}, {"use_gzip": True, "background_gzip": True}],
    ids=["plain", "gzip", "background"],
)


# -- files ---------------------------------------------------------------------


@pytest.mark.slow
@each_form
def test_sidecar_deleted_every_few_milliseconds(tmp_path: Path, options: dict[str, bool]) -> None:
    """Two processes may then each hold a lock; still four of them lose nothing while they rotate."""
    output = run_program(
        f"""
        done, tell = os.pipe()
        def cleaner():
            import select
            deleted = 0
            while not select.select([done], [], [], 0.002)[0]:
                try:
                    os.unlink("logs/.__app.lock")
                    deleted += 1
                except FileNotFoundError:
                    pass
            os.write(1, b"%d" % deleted)
        def work(name):
            handler = open_log(maxBytes=1500, **{options})
            for number in range(400):
                write(handler, name, [number])
                if number % 8 == 0:
                    time.sleep(0.001)
            assert not handler.failures, handler.failures
            handler.close()
        cleaning = start(cleaner)
        run_children(*[lambda name=name: work(name) for name in "abcd"])
        os.write(tell, b"x")
        assert join(cleaning) == [0]
        """,
        tmp_path,
    )

    assert int(output) > 5
    # A writer under an old lock can exceed the limit by a few records of the others.
    check(tmp_path / "logs", {name: range(400) for name in "abcd"}, max_bytes=2500)


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_live_file_taken_away_by_somebody_else(tmp_path: Path, how: str) -> None:
    """As logrotate does it: each writer goes on in a new file with its next record."""
    run_program(
        f"""
        def work(name):
            handler = open_log(maxBytes=0)
            for number in range(400):
                write(handler, name, [number])
                time.sleep(0.0002)
            assert not handler.failures, handler.failures
        children = [start(lambda name=name: work(name)) for name in "abc"]
        os.mkdir("taken")
        for each in range(30):
            wait_until(lambda: os.path.exists("logs/app.log"))
            if {how!r} == "moved":
                os.rename("logs/app.log", f"taken/{{each}}")
            else:
                os.link("logs/app.log", f"taken/{{each}}")  # only so that the test can read it
                os.unlink("logs/app.log")
            time.sleep(0.003)
        assert join(*children) == [0, 0, 0]
        with open("logs/whole", "wb") as whole:
            for each in [*(f"taken/{{n}}" for n in range(30)), "logs/app.log"]:
                if os.path.exists(each):
                    with open(each, "rb") as part:
                        whole.write(part.read())
        os.replace("logs/whole", "logs/app.log")
        """,
        tmp_path,
    )

    check(tmp_path / "logs", {name: range(400) for name in "abc"})


def test_directory_moved_away_again_and_again(tmp_path: Path) -> None:
    """It is made anew with the next record; what was written before is in the directory that was moved.

    A rotation that it hits is reported; its record is written all the same.
    """
    run_program(
        """
        handler = open_log(maxBytes=1500)
        def work(name):
            for number in range(400):
                write(handler, name, [number])
                time.sleep(0.0002)
        children = [start(lambda name=name: work(name)) for name in "abc"]
        for each in range(12):
            wait_until(lambda: os.path.exists("logs/app.log"))
            os.rename("logs", f"taken-{each}")
            time.sleep(0.005)
        assert join(*children) == [0, 0, 0]
        """,
        tmp_path,
    )

    assert sorted(_all_records(tmp_path)) == sorted((name, number) for name in "abc" for number in range(400))


def _all_records(directory: Path) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for each in directory.iterdir():
        if each.is_dir():
            whole, damaged = records_of(each)
            assert not damaged
            found += whole
    return found


def test_directory_removed(tmp_path: Path) -> None:
    """With everything in it, several times: no error, and the record that follows is written."""
    run_program(
        """
        import shutil
        handlers = [open_log(maxBytes=1500, use_gzip=gz) for gz in (False, True)]
        for each in range(10):
            for handler in handlers:
                shutil.rmtree("logs")
                write(handler, "a", range(50))
                whole, damaged = records_of("logs")
                assert whole == [("a", number) for number in range(50)], whole
                assert not damaged
        assert not handlers[0].failures + handlers[1].failures
        """,
        tmp_path,
    )


@pytest.mark.slow
@each_form
@pytest.mark.parametrize("where", ["app.log.1", "app.log.2", "app.log.1.gz"])
def test_directory_where_a_backup_should_go(tmp_path: Path, where: str, options: dict[str, bool]) -> None:
    """Records go on into the live file; that is told once; after the removal it rotates by itself within seconds."""
    output = run_program(
        f"""
        handler = open_log(maxBytes=400, **{options})
        write(handler, "a", range(12))
        rollovers = handler.num_rollovers
        assert rollovers
        for name in os.listdir("logs"):
            if name.startswith({where!r}):
                os.rename("logs/" + name, "logs/app.log.30" + name[9:])
        os.makedirs("logs/{where}/inside")
        for number in range(12, 100):
            write(handler, "a", [number])
        handler.close()
        assert len(handler.failures) <= 1, handler.failures
        blocked = handler.num_rollovers == rollovers
        assert blocked == bool(handler.failures), (handler.failures, handler.num_rollovers)
        assert blocked or {where!r} == "app.log.1.gz"
        os.removedirs("logs/{where}/inside")
        number = 100
        def rotated():
            global number
            write(handler, "a", [number])
            number += 1
            time.sleep(0.01)
            return handler.num_rollovers > rollovers + 1
        wait_until(rotated, seconds=8)
        assert len(handler.failures) <= 1, handler.failures
        handler.close()
        print(number)
        """,
        tmp_path,
    )

    check(tmp_path / "logs", {"a": range(int(output))}, unordered="a")


# -- a full disk -----------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB in memory."""
    logs = tmp_path / "logs"
    logs.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(logs)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs is not allowed here (it takes root)")
    yield logs
    subprocess.run(["umount", "-l", str(logs)], check=True)


@pytest.mark.slow
@each_form
def test_full_disk_that_becomes_free_again(
    tmp_path: Path, small_disk: Path, options: dict[str, bool]
) -> None:
    """No record in parts; what was not reported is there; it goes on when there is room."""
    output = run_program(
        f"""
        def work(name):
            handler = open_log(maxBytes=20_000, **{options})
            acknowledged = []
            number = 0
            state = "free"
            until = time.monotonic() + 25
            while state != "again":
                failures = len(handler.failures)
                handler.handle(a_record(text_of(name, number)))
                if state == "full" and len(handler.failures) == failures and os.path.exists("freed"):
                    state = "again"
                elif len(handler.failures) > failures and state == "free":
                    state = "full"
                    open(f"full-{{name}}", "w").close()
                if state == "full":
                    time.sleep(0.002)
                    for _ in range(0 if os.path.exists("freed") else 3):
                        handler.handle(a_record("x" * 6000))  # does not fit, or only in parts
                # What a rotation could not do is reported beside a record that is written.
                acknowledged.append((number, len(handler.failures) == failures))
                number += 1
                assert time.monotonic() < until
            handler.close()
            for number, sure in acknowledged:
                os.write(1, f"{{name}} {{number}} {{int(sure)}}\\n".encode())
        children = [start(lambda name=name: work(name)) for name in "ab"]
        wait_until(lambda: os.path.exists("full-a") and os.path.exists("full-b"))
        time.sleep(0.05)
        import fcntl, glob, shutil
        os.makedirs("kept")
        open("freed", "w").close()
        with open("logs/.__app.lock", "r+b") as sidecar:
            fcntl.flock(sidecar, fcntl.LOCK_EX)  # nobody renames meanwhile
            for path in sorted(glob.glob("logs/app.log.*"), key=lambda path: -int(path.split(".")[2]))[:4]:
                shutil.copy(path, "kept/")
                os.unlink(path)
        assert join(*children) == [0, 0]
        """,
        tmp_path,
    )

    copy = tmp_path / "copy"
    shutil.copytree(small_disk, copy)
    expected: dict[str, list[int]] = {"a": [], "b": []}
    perhaps = []
    for line in output.splitlines():
        name, number, sure = line.split()
        if sure == "1":
            expected[name].append(int(number))
        perhaps.append((name, int(number)))
    whole = [key for each in (tmp_path / "kept", copy) for key in _without_x(each)]
    assert len(whole) == len(set(whole))
    missing = {(name, number) for name, numbers in expected.items() for number in numbers} - set(whole)
    assert not missing
    assert set(whole) <= set(perhaps)
    assert sum(map(len, expected.values())) > 200


def _without_x(directory: Path) -> list[tuple[str, int]]:
    whole, damaged = records_of(directory)
    assert [line for line in damaged if not line.endswith(repr("x" * 6000))] == []
    return whole


# -- a holder of the lock that is stuck ------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stopped", "hangs in a namer"])
def test_another_process_that_is_stuck_with_the_lock(tmp_path: Path, how: str) -> None:
    """Each record is written, the first after `lock_timeout`, the others at once; then all is as before."""
    run_program(
        f"""
        ready, tell = os.pipe()
        resume, go_on = os.pipe()
        def holder():
            handler = open_log(maxBytes=400)
            once = []
            def namer(path):
                if not once:
                    once.append(True)
                    os.write(tell, b"x")
                    if {how!r} == "stopped":
                        os.kill(os.getpid(), signal.SIGSTOP)
                    else:
                        os.read(resume, 1)
                return path
            handler.namer = namer
            write(handler, "holder", range(20))
            assert not handler.failures, handler.failures
        handler = open_log(maxBytes=400, lock_timeout=0.5)
        write(handler, "a", range(3))
        child = start(holder)
        assert os.read(ready, 1)
        longest, started = 0, time.monotonic()
        for number in range(3, 50):
            before = time.monotonic()
            write(handler, "a", [number])
            longest = max(longest, time.monotonic() - before)
        whole = time.monotonic() - started
        assert longest < 1.2, longest
        assert whole < 1.7, whole
        assert len(handler.failures) == 1, handler.failures
        from concurrent_log_handler._locks import LockTimeoutError
        assert isinstance(handler.failures[0], LockTimeoutError)
        if {how!r} == "stopped":
            os.kill(child, signal.SIGCONT)
        else:
            os.write(go_on, b"x")
        assert join(child) == [0]
        before = handler.num_rollovers
        write(handler, "a", range(50, 80))
        assert handler.num_rollovers > before
        assert len(handler.failures) == 1, handler.failures
        """,
        tmp_path,
    )

    check(tmp_path / "logs", {"a": range(80), "holder": range(20)})


@pytest.mark.slow
def test_another_thread_that_hangs_in_a_namer(tmp_path: Path) -> None:
    """The other threads of the same process, and other processes, go on."""
    run_program(
        """
        handler = open_log(maxBytes=400, lock_timeout=0.5)
        inside, go_on = threading.Event(), threading.Event()
        def namer(path):
            if threading.current_thread() is hanging:
                inside.set()
                go_on.wait(20)
            return path
        handler.namer = namer
        hanging = threading.Thread(target=lambda: write(handler, "hanging", range(20)), daemon=True)
        hanging.start()
        assert inside.wait(20)
        def others(name):
            started = time.monotonic()
            write(handler, name, range(50))
            took = time.monotonic() - started
            assert took < 2, took
        def process():
            other = open_log(maxBytes=400, lock_timeout=0.5)
            started = time.monotonic()
            write(other, "process", range(50))
            took = time.monotonic() - started
            assert took < 2, took
            assert len(other.failures) == 1, other.failures
        child = start(process)
        run_threads(lambda: others("b"), lambda: others("c"))
        assert join(child) == [0]
        assert len(handler.failures) <= 2, handler.failures
        go_on.set()
        hanging.join(20)
        assert not hanging.is_alive()
        rollovers, failures = handler.num_rollovers, len(handler.failures)
        write(handler, "b", range(50, 70))
        assert handler.num_rollovers > rollovers
        assert len(handler.failures) == failures, handler.failures
        """,
        tmp_path,
    )

    check(
        tmp_path / "logs",
        {"hanging": range(20), "b": range(70), "c": range(50), "process": range(50)},
    )


# -- descriptors -------------------------------------------------------------------


def test_all_descriptors_closed_again_and_again(tmp_path: Path) -> None:
    """`os.closerange` by somebody who does not know us; other files take the numbers."""
    run_program(
        """
        handler = open_log(maxBytes=600)
        for each in range(100):
            write(handler, "a", range(each * 3, each * 3 + 3))
            os.closerange(3, 60)
            others = [os.open(f"other-{n}", os.O_RDWR | os.O_APPEND | os.O_CREAT) for n in range(each % 7)]
            write(handler, "b", [each])
            for other in others:
                os.write(other, b"o")
        assert not handler.failures, handler.failures
        for n in range(7):
            if os.path.exists(f"other-{n}"):
                with open(f"other-{n}", "rb") as file:
                    assert set(file.read()) == set(b"o")
        """,
        tmp_path,
    )

    check(tmp_path / "logs", {"a": range(300), "b": range(100)}, max_bytes=600)


@pytest.mark.parametrize("content", [b"", b"short", b"long" * 5000])
def test_another_file_put_over_each_descriptor(tmp_path: Path, content: bytes) -> None:
    """`os.dup2`: nothing is written into the other file, closed, or cut; also when it is the one appended to."""
    run_program(
        f"""
        content = {content!r}
        def ours():
            found = []
            for fd in map(int, os.listdir("/proc/self/fd")):
                try:
                    if "/logs" in os.readlink(f"/proc/self/fd/{{fd}}"):
                        found.append(fd)
                except OSError:
                    pass
            return found
        if not os.path.isdir("/proc/self/fd"):
            sys.exit(0)
        handler = open_log(maxBytes=600)
        for each in range(60):
            write(handler, "a", [2 * each])
            assert ours()
            for flags in (os.O_RDWR, os.O_RDWR | os.O_APPEND):
                replaced = ours()
                for fd in replaced:
                    other = os.open("other", flags | os.O_CREAT | os.O_TRUNC)
                    os.write(other, content)
                    os.dup2(other, fd)
                    os.close(other)
                write(handler, "a" if flags == os.O_RDWR else "b", [2 * each + 1])
                for fd in replaced:
                    assert os.fstat(fd).st_ino == os.stat("other").st_ino, "our descriptor's number was closed"
                    os.close(fd)
                with open("other", "rb") as file:
                    assert file.read() == content
        assert not handler.failures, handler.failures
        """,
        tmp_path,
    )

    if Path("/proc/self/fd").is_dir():
        check(
            tmp_path / "logs",
            {"a": range(120), "b": range(1, 121, 2)},
            max_bytes=600,
        )


@pytest.mark.parametrize("options", [{}, {"use_gzip": True}], ids=["plain", "gzip"])
def test_a_daemon_that_keeps_only_the_stream(tmp_path: Path, options: dict[str, bool]) -> None:
    """python-daemon's way: fork twice, close all descriptors but `handler.stream`, open other files, log on."""
    run_program(
        f"""
        handler = open_log(maxBytes=600, delay=False, **{options})
        write(handler, "before", range(10))
        def daemon():
            os.setsid()
            keep = handler.stream.fileno()
            run_children(lambda: serve(keep))
        def serve(keep):
            for fd in range(3, 100):
                if fd != keep:
                    try:
                        os.close(fd)
                    except OSError:
                        pass
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            others = [open(f"other-{{n}}", "wb", buffering=0) for n in range(8)]
            write(handler, "daemon", range(100))
            for other in others:
                other.write(b"mine")
                assert os.fstat(other.fileno()).st_size == 4
            assert not handler.failures, handler.failures
            os._exit(0)
        child = start(daemon)
        write(handler, "parent", range(50))
        assert join(child) == [0]
        for n in range(8):
            with open(f"other-{{n}}", "rb") as file:
                assert file.read() == b"mine"
        """,
        tmp_path,
    )

    check(
        tmp_path / "logs",
        {"before": range(10), "daemon": range(100), "parent": range(50)},
        max_bytes=600,
    )


@pytest.mark.slow
def test_descriptors_closed_by_another_thread_at_any_moment(tmp_path: Path) -> None:
    """A stray double close hits our numbers in the middle of a record: it is written all the same, or reported.

    A rotation that it hits is put off, so that the file grows.
    """
    output = run_program(
        """
        handler = open_log(maxBytes=600)
        stop = threading.Event()
        def closing():
            while not stop.is_set():
                for fd in range(3, 8):
                    try:
                        os.close(fd)
                    except OSError:
                        pass
                time.sleep(0.0007)
        thread = threading.Thread(target=closing, daemon=True)
        thread.start()
        lost = []
        for number in range(1500):
            failures = len(handler.failures)
            write(handler, "a", [number])
            if len(handler.failures) > failures:
                lost.append(number)
        stop.set()
        thread.join(10)
        os.write(1, " ".join(map(str, lost)).encode())
        os._exit(0)
        """,
        tmp_path,
    )

    reported = set(map(int, output.split()))
    check(
        tmp_path / "logs",
        {"a": set(range(1500)) - reported},
        perhaps=[("a", number) for number in reported],
    )
    assert len(reported) < 150


@pytest.mark.slow
def test_no_inode_left_for_the_new_file(tmp_path: Path) -> None:
    """The rotation is undone: there is room for records, and they go on in the file that there is."""
    logs = tmp_path / "logs"
    logs.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=10m,nr_inodes=5", "tmpfs", str(logs)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs is not allowed here (it takes root)")
    try:
        run_program(
            """
            handler = open_log(maxBytes=400, backupCount=5, lock_timeout=1)
            write(handler, "writer", range(60))
            assert 1 <= len(handler.failures) <= 3, handler.failures
            assert {type(each) for each in handler.failures} == {OSError}, handler.failures
            backups = list(Path("logs").glob("app.log.*"))
            assert backups, os.listdir("logs")
            for backup in backups:
                os.unlink(backup)
            handler._rotation.trouble.until = 0.0
            write(handler, "later", range(2))
            """,
            tmp_path,
        )
        whole, damaged = records_of(logs)
        assert not damaged
        assert [number for writer, number in whole if writer == "later"] == [0, 1]
        # The first backups were removed by hand, to have inodes again.
        assert [number for writer, number in whole if writer == "writer"] == list(range(60))[
            -len(whole) + 2 :
        ]
        assert len(whole) > 40
    finally:
        subprocess.run(["umount", "-l", str(logs)], check=True)
