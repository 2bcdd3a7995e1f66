"""fork() at bad moments: while other threads log, compress or rotate; and children that outlive a killed parent."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("there is no fork", allow_module_level=True)

from process_helpers import check, run_program

each_form = pytest.mark.parametrize(
    "options",
    [{}, {"use_gzip": True}, {"use_gzip": True, "background_gzip": True}],
    ids=["plain", "gzip", "background"],
)

# uWSGI forks so: no hook of Python's is called.
in_c = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="needs a call that keeps CPython's lock"
)

FORK_IN_A_FORMATTER = """
        class Forking(logging.Formatter):
            def format(self, record):
                if record.msg == "fork":
                    run_children(lambda: None)
                return super().format(record)
        handler.setFormatter(Forking())
        handler.handle(a_record("fork"))
"""


@pytest.mark.slow
@each_form
def test_hundreds_of_forks_while_threads_log(tmp_path: Path, options: dict[str, bool]) -> None:
    """The children log and end, some through the interpreter's whole exit; none hangs, none reports an error."""
    output = run_program(
        f"""
        handler = open_log(maxBytes=2000, **{options})
        logging.getLogger().addHandler(handler)
        stop = threading.Event()
        counts = {{}}
        def busy(name):
            number = 0
            while not stop.is_set():
                write(handler, name, [number])
                number += 1
                counts[name] = number
                time.sleep(0.0003)
        def child(each):
            write(handler, f"child-{{each}}", range(3))
            assert not handler.failures, handler.failures
        threads = [threading.Thread(target=busy, args=(name,), daemon=True) for name in "abc"]
        for thread in threads:
            thread.start()
        running = []
        for each in range(200):
            running.append(start(lambda: child(each)))
            if each % 10 == 0:
                pid = os.fork()
                if not pid:
                    child(1000 + each)
                    sys.exit(0)
                running.append(pid)
            if len(running) > 3:
                assert join(running.pop(0), seconds=10) == [0]
        assert not any(join(*running))
        stop.set()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        assert not handler.failures, handler.failures
        for name, count in counts.items():
            print(name, count)
        """,
        tmp_path,
    )

    expected = {name: range(int(count)) for name, count in map(str.split, output.splitlines())}
    expected.update({f"child-{each}": range(3) for each in [*range(200), *range(1000, 1200, 10)]})
    check(tmp_path / "logs", expected, max_bytes=2000)


@pytest.mark.slow
def test_forks_from_several_threads_at_once(tmp_path: Path) -> None:
    """Each fork waits for the steps of the other threads, which fork, too; subprocesses start meanwhile."""
    run_program(
        """
        import subprocess
        handler = open_log()
        def forking(name):
            for each in range(30):
                write(handler, name, [each])
                [status] = join(start(lambda: write(handler, f"{name}-{each}", range(4))))
                assert status == 0
        def starting():
            for each in range(15):
                write(handler, "starter", [each])
                subprocess.run(["true"], check=True, timeout=20)
        run_threads(*[lambda name=name: forking(name) for name in "abc"], starting)
        assert not handler.failures, handler.failures
        """,
        tmp_path,
    )

    expected = {f"{name}-{each}": range(4) for name in "abc" for each in range(30)}
    expected.update({name: range(30) for name in "abc"}, starter=range(15))
    check(tmp_path / "logs", expected, max_bytes=3000)


WHERE = {
    "in the rotation": "handler.rotator = lambda source, target: (outlive(), os.rename(source, target))",
    "in a namer": "handler.namer = lambda path: outlive() or path",
    "by another thread": """
def rotator(source, target):
    run_threads(outlive)
    os.rename(source, target)
handler.rotator = rotator
""",
    "in the formatter": """
class Forking(logging.Formatter):
    def format(self, record):
        outlive()
        return super().format(record)
handler.setFormatter(Forking())
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("where", WHERE)
def test_an_idle_child_blocks_nobody_when_the_parent_dies_with_the_lock(tmp_path: Path, where: str) -> None:
    """The child was forked while the lock was held, has copies of all descriptors, and does nothing."""
    output = run_program(
        f"""
handler = open_log(maxBytes=400)
write(handler, "before", range(4))
reader, writer = os.pipe()
once = []
def outlive():
    # Forks the idle child and dies, all locks held.
    if once:
        return
    once.append(True)
    child = os.fork()
    if child:
        os.write(writer, b"%d\\n" % child)
        signal.pause()
    signal.pause()
def parent():
    exec({WHERE[where]!r}, {{**globals(), "handler": handler, "outlive": outlive}})
    write(handler, "cut", range(20))
victim = start(parent)
idle = int(os.read(reader, 20))
os.kill(victim, signal.SIGKILL)
[status] = join(victim)
assert os.WIFSIGNALED(status)
def other():
    handler = open_log(maxBytes=400)
    started = time.monotonic()
    write(handler, "other", range(30))
    took = time.monotonic() - started
    assert took < 2, took
    assert not handler.failures, handler.failures
    assert handler.num_rollovers > 1
run_children(other)
try:
    os.kill(idle, 0)
finally:
    os.kill(idle, signal.SIGKILL)
""",
        tmp_path,
    )

    assert not output
    perhaps = [("cut", number) for number in range(20)]
    check(tmp_path / "logs", {"before": range(4), "other": range(30)}, perhaps=perhaps, max_bytes=400)


def test_a_child_forked_during_a_compression_leaves_it_to_the_next_rotation(tmp_path: Path) -> None:
    """The dead parent's lock on the backup must not live on in the idle child, or nobody ever compresses it."""
    run_program(
        """
        import zlib
        handler = open_log(maxBytes=400, use_gzip=True, backupCount=50)
        reader, writer = os.pipe()
        real = zlib.compressobj
        def compressobj(*args):
            child = os.fork()
            if child:
                os.write(writer, b"%d" % child)
            signal.pause()
        def parent():
            zlib.compressobj = compressobj
            write(handler, "parent", range(20))
        victim = start(parent)
        idle = int(os.read(reader, 20))
        os.kill(victim, signal.SIGKILL)
        join(victim)
        write(handler, "other", range(30))
        assert not handler.failures, handler.failures
        os.kill(idle, signal.SIGKILL)
        """,
        tmp_path,
    )

    check(
        tmp_path / "logs",
        {"other": range(30)},
        perhaps=[("parent", number) for number in range(20)],
        max_bytes=400,
    )
    assert not [each.name for each in (tmp_path / "logs").glob("app.log.*") if each.suffix != ".gz"]


@pytest.mark.slow
def test_a_child_does_not_finish_what_another_thread_of_the_parent_left(tmp_path: Path) -> None:
    """Threads rotate by hand and compress while children are forked: what is left to do stays the parent's."""
    run_program(
        """
        handler = open_log(maxBytes=400, use_gzip=True)
        stop = threading.Event()
        def rotating():
            number = 0
            while not stop.is_set():
                write(handler, "rotating", [number])
                handler.doRollover()
                number += 1
                if number > 150:
                    return
        thread = threading.Thread(target=rotating, daemon=True)
        thread.start()
        def child(each):
            write(handler, f"child-{each}", range(2))
            handler.close()
            assert not handler.failures, handler.failures
        for each in range(60):
            assert join(start(lambda: child(each))) == [0]
        thread.join(30)
        assert not thread.is_alive()
        assert not handler.failures, handler.failures
        """,
        tmp_path,
    )

    check(
        tmp_path / "logs",
        {"rotating": range(151), **{f"child-{each}": range(2) for each in range(60)}},
        max_bytes=400,
    )


@pytest.mark.slow
def test_fork_while_a_thread_hangs_in_the_handler(tmp_path: Path) -> None:
    """The application may still fork, and the child logs."""
    run_program(
        """
        handler = open_log(maxBytes=400, lock_timeout=0.5)
        write(handler, "main", range(3))
        inside, go_on = threading.Event(), threading.Event()
        def namer(path):
            if threading.current_thread() is thread:
                inside.set()
                go_on.wait(20)
            return path
        handler.namer = namer
        thread = threading.Thread(target=lambda: write(handler, "thread", range(20)), daemon=True)
        thread.start()
        assert inside.wait(20)
        started = time.monotonic()
        def child():
            handler.namer = None
            write(handler, "child", range(20))
        assert join(start(child)) == [0]
        took = time.monotonic() - started
        assert took < 5, took
        go_on.set()
        thread.join(20)
        assert not thread.is_alive()
        write(handler, "main", range(3, 20))
        """,
        tmp_path,
    )

    check(tmp_path / "logs", {"main": range(20), "thread": range(20), "child": range(20)})


@pytest.mark.slow
def test_levels_of_an_earlier_fork_are_forgotten(tmp_path: Path) -> None:
    """A fork inside a formatter, and later one while another thread hangs with the lock."""
    run_program(
        f"""
        handler = open_log(lock_timeout=0.2)
        {FORK_IN_A_FORMATTER}
        taken, go_on = threading.Event(), threading.Event()
        def hang():
            handler.acquire()
            taken.set()
            go_on.wait(30)
            handler.release()
        thread = threading.Thread(target=hang)
        thread.start()
        assert taken.wait(20)
        def child():
            assert not handler._lock.mine()
            run_threads(lambda: write(handler, "child", range(3)))
            assert not handler.failures, handler.failures
        run_children(child)
        go_on.set()
        thread.join(20)
        """,
        tmp_path,
    )


@in_c
@pytest.mark.parametrize("what", ["handler.close()", "handler.doRollover()", "handler.acquire()"])
def test_fork_in_c_leaves_the_parent_its_lock(tmp_path: Path, what: str) -> None:
    """uWSGI forks without telling Python; the first thing that the child does need not be a record."""
    run_program(
        f"""
        import fcntl
        handler = open_log()
        write(handler, "parent", range(3))
        inside, go_on = threading.Event(), threading.Event()
        def hold():
            def step(held):
                inside.set()
                go_on.wait(30)
            handler._locks.exclusive(step)
        thread = threading.Thread(target=hold)
        thread.start()
        assert inside.wait(20)
        child = ctypes.PyDLL(None).fork()
        if not child:
            handler.lock_timeout = 0.1
            try:
                {what}
            except OSError:
                pass
            os._exit(0)
        [status] = join(child)
        assert status == 0, status
        with open(handler.lockFilename) as sidecar:
            try:
                fcntl.flock(sidecar, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                raise AssertionError("the parent's lock is gone")
        go_on.set()
        thread.join(20)
        """,
        tmp_path,
    )


@pytest.mark.slow
@in_c
def test_threads_that_notice_a_fork_in_c_together_begin_anew_once(tmp_path: Path) -> None:
    """uWSGI's workers have several threads; what the first of them has begun, the second must not undo."""
    run_program(
        """
        sys.setswitchinterval(1e-6)
        handler = open_log(maxBytes=400, use_gzip=True)
        write(handler, "parent", range(3))
        for each in range(40):
            child = ctypes.PyDLL(None).fork()
            if not child:
                barrier = threading.Barrier(4)
                def log(thread):
                    barrier.wait(20)
                    write(handler, f"{each}-{thread}", range(4))
                try:
                    run_threads(*(functools.partial(log, thread) for thread in range(4)))
                    assert not handler.failures, handler.failures
                    handler.close()
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            assert join(child) == [0]
        """,
        tmp_path,
    )

    writers = {f"{each}-{thread}": range(4) for each in range(40) for thread in range(4)}
    check(tmp_path / "logs", {"parent": range(3), **writers}, max_bytes=400)


@in_c
def test_fork_in_c_after_one_by_a_formatter(tmp_path: Path) -> None:
    """The levels of the thread lock that were meant for the first child are not given to the second one's thread."""
    run_program(
        f"""
        handler = open_log()
        {FORK_IN_A_FORMATTER}
        child = ctypes.PyDLL(None).fork()
        if not child:
            write(handler, "child", [0])
            os._exit(handler._lock.mine())
        assert join(child) == [0]
        """,
        tmp_path,
    )


@pytest.mark.slow
def test_a_child_forked_while_a_namer_hangs_rotates(tmp_path: Path) -> None:
    """Whoever was in the middle of a rotation is the parent's thread, and not in the child."""
    run_program(
        """
        handler = open_log(maxBytes=400, lock_timeout=0.2)
        named, go_on = threading.Event(), threading.Event()
        def namer(name):
            if threading.current_thread() is not threading.main_thread():
                named.set()
                go_on.wait(30)
            return name
        handler.namer = namer
        write(handler, "parent", range(3))
        thread = threading.Thread(target=handler.doRollover)
        thread.start()
        assert named.wait(20)
        ready, told = os.pipe()
        def child():
            os.read(ready, 1)
            write(handler, "child", range(40))
            assert handler.num_rollovers > 3, handler.num_rollovers
        forked = start(child)
        go_on.set()
        thread.join(20)
        os.write(told, b"x")
        assert join(forked) == [0]
        """,
        tmp_path,
    )

    check(tmp_path / "logs", {"parent": range(3), "child": range(40)}, max_bytes=400)
