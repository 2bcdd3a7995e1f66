"""Many processes and threads, one rotating file: nothing lost, doubled, torn, glued or out of order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from process_helpers import check, records_of, run_program

GZIP = {"plain": {}, "gzip": {"use_gzip": True}, "background": {"use_gzip": True, "background_gzip": True}}
each_form = pytest.mark.parametrize("options", GZIP.values(), ids=GZIP)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@each_form
def test_processes_and_threads_of_multiprocessing(
    tmp_path: Path, method: str, options: dict[str, bool]
) -> None:
    """Each process has two threads, each thread its order; rotations all the time."""
    run_program(
        f"""
        import multiprocessing

        def work(process, barrier):
            handler = open_log(**{options})
            barrier.wait(SECONDS)
            run_threads(*[lambda t=t: write(handler, f"{{process}}-{{t}}", range(150)) for t in range(2)])
            assert not handler.failures, handler.failures
            handler.close()

        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            barrier = context.Barrier(4)
            children = [context.Process(target=work, args=(each, barrier)) for each in range(4)]
            for child in children:
                child.start()
            for child in children:
                child.join(SECONDS)
                assert child.exitcode == 0, child.exitcode
        """,
        tmp_path,
    )

    expected = {f"{process}-{thread}": range(150) for process in range(4) for thread in range(2)}
    check(tmp_path / "logs", expected, max_bytes=3000)


@pytest.mark.slow
@each_form
def test_programs_started_on_their_own(tmp_path: Path, options: dict[str, bool]) -> None:
    """Nothing is shared but the file: each program runs through exec."""
    run_program(
        f"""
        import subprocess
        if len(sys.argv) > 1:
            handler = open_log(**{options})
            sys.stdin.read()
            write(handler, sys.argv[1], range(250))
            assert not handler.failures, handler.failures
            sys.exit(0)
        programs = [subprocess.Popen([sys.executable, __file__, str(each)], stdin=subprocess.PIPE) for each in range(4)]
        for program in programs:
            program.stdin.close()
        assert [program.wait(SECONDS) for program in programs] == [0] * 4
        """,
        tmp_path,
    )

    check(tmp_path / "logs", {str(each): range(250) for each in range(4)}, max_bytes=3000)


@each_form
def test_a_full_chain_keeps_the_newest_and_no_more_than_backup_count(
    tmp_path: Path, options: dict[str, bool]
) -> None:
    """What is left is the end of each writer's records, without a hole."""
    run_program(
        f"""
        def work(name):
            handler = open_log(backupCount=3, **{options})
            write(handler, name, range(250))
            assert not handler.failures, handler.failures
            handler.close()
        run_children(*[lambda name=name: work(name) for name in "abcd"])
        """,
        tmp_path,
    )

    left = {name: [n for writer, n in records_of(tmp_path / "logs")[0] if writer == name] for name in "abcd"}
    newest = {name: range(min(numbers, default=250), 250) for name, numbers in left.items()}
    check(tmp_path / "logs", newest, max_bytes=3000, backup_count=3)
    assert sum(map(len, left.values())) > 100


def test_a_handler_used_before_fork_works_in_all_children_and_grandchildren(tmp_path: Path) -> None:
    """As under gunicorn --preload: nobody sets anything up again."""
    run_program(
        """
        handler = open_log()
        write(handler, "parent", range(20))
        def child(name):
            write(handler, name, range(100))
            run_children(*[lambda n=n: write(handler, f"{name}-{n}", range(100)) for n in (1, 2)])
            write(handler, name, range(100, 150))
            assert not handler.failures, handler.failures
        children = [start(lambda name=name: child(name)) for name in "abc"]
        write(handler, "parent", range(20, 200))
        assert join(*children) == [0, 0, 0]
        write(handler, "parent", range(200, 210))
        assert not handler.failures, handler.failures
        """,
        tmp_path,
    )

    expected = {"parent": range(210)}
    for name in "abc":
        expected.update({name: range(150), f"{name}-1": range(100), f"{name}-2": range(100)})
    check(tmp_path / "logs", expected, max_bytes=3000)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pools_and_loggers(tmp_path: Path, method: str) -> None:
    """A pool's workers end without any clean-up of their own."""
    run_program(
        f"""
        import multiprocessing
        def set_up():
            logging.getLogger().handlers = [open_log()]
            logging.getLogger().setLevel(logging.INFO)
        def task(number):
            for each in range(20):
                logging.info("%s", text_of(str(number), each))
        if __name__ == "__main__":
            set_up()
            initializer = None if {method!r} == "fork" else set_up
            with multiprocessing.get_context({method!r}).Pool(4, initializer) as pool:
                pool.map(task, range(40))
                logging.info("%s", text_of("parent", 0))
                pool.close()
                pool.join()
        """,
        tmp_path,
    )

    check(tmp_path / "logs", {"parent": [0], **{str(each): range(20) for each in range(40)}}, max_bytes=3000)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_handler_sent_by_pickle(tmp_path: Path, method: str) -> None:
    """It arrives with formatter, level and filters, and writes to the same log."""
    run_program(
        f"""
        import multiprocessing
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        def work(handler, name):
            assert handler.level == logging.INFO and handler.filters[0].name == "test"
            write(handler, name, range(200))
        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            handler = ConcurrentRotatingFileHandler("logs/app.log", maxBytes=3000, backupCount=500, encoding="utf-8")
            handler.setFormatter(logging.Formatter("%(message)s"))
            handler.setLevel(logging.INFO)
            handler.addFilter(logging.Filter("test"))
            write(handler, "parent", range(50))
            children = [context.Process(target=work, args=(handler, str(each))) for each in range(2)]
            for child in children:
                child.start()
            write(handler, "parent", range(50, 200))
            for child in children:
                child.join(SECONDS)
                assert child.exitcode == 0
        """,
        tmp_path,
    )

    check(tmp_path / "logs", {"parent": range(200), "0": range(200), "1": range(200)}, max_bytes=3000)


def test_two_handlers_of_one_process_in_threads_and_children(tmp_path: Path) -> None:
    """They share one lock, so that neither waits for the other in one thread."""
    run_program(
        """
        first, second = open_log(), open_log()
        def both(name):
            for number in range(0, 100, 2):
                write(first, name, [number])
                write(second, name, [number + 1])
        def process(name):
            run_threads(*[lambda t=t: both(f"{name}-{t}") for t in range(3)])
            assert not first.failures + second.failures
        children = [start(lambda name=name: process(name)) for name in "ab"]
        process("c")
        assert join(*children) == [0, 0]
        """,
        tmp_path,
    )

    expected = {f"{name}-{thread}": range(100) for name in "abc" for thread in range(3)}
    check(tmp_path / "logs", expected, max_bytes=3000)


def test_two_handlers_that_log_from_inside_each_other(tmp_path: Path) -> None:
    """A formatter and a namer of either log through the other, in three threads."""
    output = run_program(
        """
        first, second = open_log(), open_log()
        counts, guard = {}, threading.Lock()
        def note(handler, kind):
            name = f"{kind}-{threading.get_ident()}"
            number = counts.get(name, 0)
            counts[name] = number + 1
            write(handler, name, [number])
        class Talking(logging.Formatter):
            other = None
            busy = threading.local()
            def format(self, record):
                if not getattr(self.busy, "now", False):
                    self.busy.now = True
                    try:
                        note(self.other, "formatter")
                    finally:
                        self.busy.now = False
                return super().format(record)
        for one, other in ((first, second), (second, first)):
            formatter = Talking("%(message)s")
            formatter.other = other
            one.setFormatter(formatter)
            def namer(path, other=other):
                if path.endswith(".7"):
                    note(other, "namer")
                return path
            one.namer = namer
        def both(name):
            for number in range(0, 60, 2):
                write(first, name, [number])
                write(second, name, [number + 1])
        run_threads(*[lambda t=t: both(str(t)) for t in range(3)])
        assert not first.failures + second.failures, first.failures + second.failures
        import json
        print(json.dumps(counts))
        """,
        tmp_path,
    )

    counts = json.loads(output)
    expected = {name: range(count) for name, count in counts.items()}
    expected.update({str(each): range(60) for each in range(3)})
    check(tmp_path / "logs", expected)
    assert any(name.startswith("namer") for name in counts)
