"""Code that interrupts the handler, or comes at the very end: signals, KeyboardInterrupt, formatters that log, exit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("there is no setitimer", allow_module_level=True)

from process_helpers import check, run_program

each_form = pytest.mark.parametrize(
    "options",
    [{}, {"use_gzip": True}, {"use_gzip": True, "background_gzip": True}, {"keep_file_open": False}],
    ids=["plain", "gzip", "background", "opened each time"],
)


@pytest.mark.slow
@each_form
def test_signal_handlers_that_log_at_1_khz(tmp_path: Path, options: dict[str, bool]) -> None:
    """In two processes at once; the interrupted handler is the one that is logged to."""
    output = run_program(
        f"""
        def process(name):
            handler = open_log(maxBytes=2000, **{options})
            count = depth = 0
            def interrupt(*_):  # also interrupted by itself
                nonlocal count, depth
                if depth == 30:
                    return  # where this takes more than a millisecond, the stack would fill without end
                depth += 1
                number, count = count, count + 1
                write(handler, name + "-signal", [number])
                depth -= 1
            signal.signal(signal.SIGALRM, interrupt)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            number = 0
            while number < 400 or count < 300:
                write(handler, name, [number])
                number += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert not handler.failures, handler.failures
            handler.close()
            os.write(1, f"{{name}} {{number}} {{name}}-signal {{count}}\\n".encode())
        run_children(lambda: process("a"), lambda: process("b"))
        """,
        tmp_path,
    )

    words = output.split()
    expected = {writer: range(int(count)) for writer, count in zip(words[::2], words[1::2])}
    check(tmp_path / "logs", expected, unordered="-signal")


@pytest.mark.slow
def test_signals_at_1_khz_while_the_lock_is_stuck(tmp_path: Path) -> None:
    """Who interrupts a wait must not wait himself, or a second of waiting is a thousand calls deep."""
    output = run_program(
        """
        ready, tell = os.pipe()
        def holder():
            handler = open_log()
            def namer(path):
                os.write(tell, b"x")
                os.kill(os.getpid(), signal.SIGSTOP)
                handler.namer = None
                return path
            handler.namer = namer
            write(handler, "holder", range(3))
            handler.doRollover()
        child = start(holder)
        assert os.read(ready, 1)
        handler = open_log(lock_timeout=1.0)
        count = depth = 0
        def interrupt(*_):
            global count, depth
            if depth == 30:
                return  # as above
            depth += 1
            number, count = count, count + 1
            write(handler, "signal", [number])
            depth -= 1
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        started = time.monotonic()
        write(handler, "main", [0])
        took = time.monotonic() - started
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert took < 4, took
        os.kill(child, signal.SIGCONT)
        assert join(child) == [0]
        write(handler, "main", range(1, 10))
        assert len(handler.failures) <= 1, handler.failures
        print(count)
        """,
        tmp_path,
    )

    expected = {"main": range(10), "signal": range(int(output)), "holder": range(3)}
    assert int(output) > 50
    check(tmp_path / "logs", expected, unordered="signal")


# A record that rotates is interrupted at one bytecode; then this thread, another one and other
# processes must find every lock free and every record whole.
INTERRUPTED = """
import fcntl, gc, shutil, warnings
warnings.simplefilter("ignore", ResourceWarning)  # of an iterator that was made, and not entered yet
gc.disable()  # so that nothing but the handler's own code is interrupted
import concurrent_log_handler
gc.collect()
gc.freeze()

def is_free(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(fd)

def interrupt_at(opcode, work, again=0, first=lambda: None):
    # Run work(), and at its opcode of that number first(); raise KeyboardInterrupt then, and some calls later.
    seen = calls = 0
    def profile(frame, event, arg):
        nonlocal calls
        if seen == opcode and frame.f_code.co_filename != __file__ and event in ("call", "c_call"):
            calls += 1
            if calls == again:
                raise KeyboardInterrupt
    def trace(frame, event, arg):
        nonlocal seen
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            if seen == opcode:
                if again:
                    sys.setprofile(profile)
                first()
                raise KeyboardInterrupt
        return trace
    sys.settrace(trace)
    try:
        work()
        return False
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
        sys.setprofile(None)

def attempt(opcode, options, again=0):
    gc.collect()
    shutil.rmtree("logs")
    os.mkdir("logs")
    for name, numbers in (("app.log.1", range(5)), ("app.log", range(5, 10))):
        with open("logs/" + name, "w", encoding="utf-8") as file:
            file.writelines(text_of("old", number) + "\\n" for number in numbers)
    handler = open_log(backupCount=20, lock_timeout=20.0, **options)
    write(handler, "old", [10])
    interrupted = interrupt_at(opcode, lambda: write(handler, "cut", [0]), again)
    started = time.monotonic()
    if again:
        write(handler, "after", range(2))  # what two interrupts left, this thread's next record takes back
    run_threads(lambda: write(handler, "thread", range(12)), seconds=30)
    write(handler, "after", range(2 if again else 0, 12))
    took = time.monotonic() - started
    try:
        assert took < 19, took
        assert is_free("logs/.__app.lock") and is_free("logs"), "a lock is still held"
        assert not handler.failures, handler.failures
        expected = {"old": range(11), "after": range(12), "thread": range(12)}
        check("logs", expected, perhaps=[("cut", 0)], max_bytes=0, tidy=TIDY, both_forms=not TIDY)
    except AssertionError as error:
        raise AssertionError(f"interrupted at opcode {opcode}, again after {again} calls") from error
    handler.close()
    return interrupted
"""

WAYS = {
    "emission": {"maxBytes": 0},
    "rotation": {"maxBytes": 400},
    "compression": {"maxBytes": 400, "use_gzip": True},
    "opened each time": {"maxBytes": 400, "keep_file_open": False},
    "shared": {"maxBytes": 400, "shared_between_machines": True},
}


def opcodes_interrupted(memory: Path, way: str, stride: int, own_attempt: str = "") -> int:
    """Interrupt every *stride*-th opcode, from a random one on, each in an attempt; return how far that went."""
    output = run_program(
        INTERRUPTED
        + own_attempt
        + f"""
TIDY = True
opcode = random.randrange({stride}) + 1
while attempt(opcode, {WAYS[way]}):
    opcode += {stride}
print(opcode)
""",
        memory,
        seconds=170,
    )
    return int(output)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("way", "stride"),
    [("emission", 2), ("rotation", 5), ("compression", 17), ("opened each time", 7), ("shared", 7)],
)
def test_keyboard_interrupt_at_any_bytecode(memory: Path, way: str, stride: int) -> None:
    """Nothing stays locked, nothing is torn, and the next records come at once.  The offset changes from run to run."""
    assert opcodes_interrupted(memory, way, stride) > 100


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("way", "stride"), [("emission", 3), ("rotation", 11), ("shared", 17)])
def test_keyboard_interrupt_at_any_bytecode_of_a_batch(memory: Path, way: str, stride: int) -> None:
    """
    What is left in the deque was not written, all else was: its owner writes the rest, and each stands once.

    Every other signal handler logs before it raises.
    """
    batch_attempt = """
from collections import deque
def attempt(opcode, options):
    gc.collect()
    shutil.rmtree("logs")
    os.mkdir("logs")
    handler = open_log(backupCount=50, lock_timeout=20.0, **options)
    write(handler, "old", [0])
    batch = deque(a_record(text_of("batch", number)) for number in range(16))
    first = lambda: opcode % 2 and write(handler, "signal", [0])
    interrupted = interrupt_at(opcode, lambda: handler.emit_batch(batch), first=first)
    handler.emit_batch(batch)
    try:
        assert not handler.failures, handler.failures
        expected = {"old": range(1), "batch": range(16)}
        check("logs", expected, perhaps=[("signal", 0)], unordered="signal", tidy=False)
    except AssertionError as error:
        raise AssertionError(f"interrupted at opcode {opcode}") from error
    handler.close()
    return interrupted
"""

    assert opcodes_interrupted(memory, way, stride, batch_attempt) > 100


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("way", WAYS)
def test_two_interrupts_in_quick_succession(memory: Path, way: str) -> None:
    """The second one hits the code that cleans up after the first; at random places."""
    run_program(
        INTERRUPTED
        + f"""
TIDY = False
last = 64
while attempt(last, {WAYS[way]}):
    last *= 2
for _ in range(150):
    attempt(random.randrange(1, last), {WAYS[way]}, random.randrange(1, 25))
""",
        memory,
        seconds=170,
    )


def test_a_formatter_that_logs(tmp_path: Path) -> None:
    """Into its own handler, in several threads; a rotation may fall on either record."""
    run_program(
        """
        handler = open_log()
        class Talking(logging.Formatter):
            def format(self, record):
                if "inner" not in record.msg:
                    writer, number, *_ = record.msg.split()
                    write(handler, "inner-" + writer, [int(number)])
                return super().format(record)
        handler.setFormatter(Talking())
        run_threads(*[lambda name=name: write(handler, name, range(150)) for name in "abc"])
        assert not handler.failures, handler.failures
        """,
        tmp_path,
    )

    check(
        tmp_path / "logs",
        {prefix + name: range(150) for name in "abc" for prefix in ("", "inner-")},
        max_bytes=3000,
    )


def test_a_namer_and_a_rotator_that_log(tmp_path: Path) -> None:
    """In the middle of the rotation that their own record would ask for again."""
    output = run_program(
        """
        handler = open_log(backupCount=100)
        numbers = {"namer": 0, "rotator": 0}
        def note(name):
            write(handler, name, [numbers[name]])
            numbers[name] += 1
        def namer(path):
            if path.endswith(".3"):
                note("namer")
            return path
        def rotator(source, target):
            note("rotator")
            os.rename(source, target)
            note("rotator")
        handler.namer, handler.rotator = namer, rotator
        write(handler, "main", range(300))
        assert not handler.failures, handler.failures
        print(numbers["namer"], numbers["rotator"])
        """,
        tmp_path,
    )

    namer, rotator = map(int, output.split())
    assert namer > 3
    assert rotator > 6
    check(tmp_path / "logs", {"main": range(300), "namer": range(namer), "rotator": range(rotator)})


@each_form
def test_at_exit_and_after_shutdown(tmp_path: Path, options: dict[str, bool]) -> None:
    """`atexit` functions run before and after the one of `logging`; records of both come through."""
    run_program(
        f"""
        import atexit
        handler = None
        def late():
            write(handler, "late", range(60))
            assert not handler.failures, handler.failures
        # Registered before the one of logging, in effect: this one calls logging.shutdown() first.
        atexit.register(late)
        handler = open_log(maxBytes=600, **{options})
        logging.getLogger().addHandler(handler)
        atexit.register(logging.shutdown)
        atexit.register(lambda: write(handler, "early", range(60)))
        write(handler, "main", range(60))
        logging.shutdown()
        write(handler, "main", range(60, 120))
        """,
        tmp_path,
    )

    check(
        tmp_path / "logs",
        {"main": range(120), "early": range(60), "late": range(60)},
        max_bytes=600,
    )


@pytest.mark.slow
@each_form
def test_daemon_threads_at_exit(tmp_path: Path, options: dict[str, bool]) -> None:
    """They log until the interpreter freezes them: no traceback, no hang, no acknowledged record lost."""
    output = run_program(
        f"""
        import subprocess
        if len(sys.argv) > 1:
            handler = open_log(maxBytes=2000, **{options})
            logging.getLogger().addHandler(handler)
            def forever(name):
                number = 0
                while True:
                    write(handler, name, [number])
                    os.write(1, b"%s %d\\n" % (name.encode(), number))
                    number += 1
                    time.sleep(0.0002)
            for each in range(3):
                threading.Thread(target=forever, args=(f"{{sys.argv[1]}}-{{each}}",), daemon=True).start()
            time.sleep(0.02)
            sys.exit(0)
        for each in range(8):
            done = subprocess.run([sys.executable, __file__, str(each)], capture_output=True, timeout=20)
            assert (done.returncode, done.stderr) == (0, b""), done
            sys.stdout.write(done.stdout.decode())
        """,
        tmp_path,
    )

    expected: dict[str, list[int]] = {}
    for line in output.splitlines():
        writer, number = line.split()
        expected.setdefault(writer, []).append(int(number))
    assert len(expected) >= 8
    check(
        tmp_path / "logs",
        expected,
        perhaps=[(writer, numbers[-1] + 1) for writer, numbers in expected.items()]
        + [(f"{process}-{thread}", 0) for process in range(8) for thread in range(3)],
        max_bytes=2000,
        tidy=False,
    )
