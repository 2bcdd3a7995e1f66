"""What applications do with a handler of the standard library, and expect of one that takes its place."""

from __future__ import annotations

import gc
import gzip
import logging
import os
import shutil
import sys
from pathlib import Path

import pytest

from concurrent_log_handler import ConcurrentRotatingFileHandler
from concurrent_log_handler._backups._compressor import Job
from handler_support import Recording, Strict, a_record, contents, open_paths, run_program, write

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


def test_terminator_as_a_class_attribute(tmp_path: Path) -> None:
    """That is where `StreamHandler` documents it."""

    class NoNewline(Strict):
        terminator = ""

    handler = NoNewline(tmp_path / "app.log")
    write(handler, "a", "b")
    handler.terminator = "|"
    write(handler, "c")

    assert contents(tmp_path) == {"app.log": "abc|"}


def test_do_rollover_rewritten_from_the_standard_librarys(tmp_path: Path) -> None:
    class Copied(Strict):
        def doRollover(self) -> None:
            if self.stream:
                self.stream.close()
                self.stream = None
            for number in range(self.backupCount - 1, 0, -1):
                source = self.rotation_filename(f"{self.baseFilename}.{number}")
                if os.path.exists(source):
                    os.replace(source, self.rotation_filename(f"{self.baseFilename}.{number + 1}"))
            self.rotate(self.baseFilename, self.rotation_filename(self.baseFilename + ".1"))
            self.stream = self._open()

    handler = Copied(tmp_path / "app.log", maxBytes=10, backupCount=2)
    write(handler, "aaaa", "bbbb", "cccc")

    assert contents(tmp_path) == {"app.log": "cccc\n", "app.log.1": "bbbb\n", "app.log.2": "aaaa\n"}


def test_emit_that_calls_the_file_handlers(tmp_path: Path) -> None:
    """The body of `BaseRotatingHandler.emit`, which subclasses repeat."""

    class Repeated(Strict):
        def emit(self, record: logging.LogRecord) -> None:
            if self.shouldRollover(record):
                self.doRollover()
            logging.FileHandler.emit(self, record)

    handler = Repeated(tmp_path / "app.log", maxBytes=10, backupCount=2)
    write(handler, "aaaa", "bbbb")

    assert contents(tmp_path) == {"app.log": "bbbb\n", "app.log.1": "aaaa\n"}


def test_emit_of_a_subclass_has_the_thread_lock(tmp_path: Path) -> None:
    """`Handler.handle` promises it."""

    class Counting(Strict):
        locked = False

        def emit(self, record: logging.LogRecord) -> None:
            self.locked = self._lock.mine()
            super().emit(record)

    handler = Counting(tmp_path / "app.log")
    write(handler, "a")

    assert handler.locked
    assert not handler._lock.mine()


@pytest.mark.parametrize("use_gzip", [False, True], ids=["plain", "gzip"])
def test_namer_that_returns_a_path(tmp_path: Path, use_gzip: bool) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=2, use_gzip=use_gzip)
    handler.namer = lambda name: Path(name + ".old")
    write(handler, "aaaa", "bbbb")

    backup = "app.log.1.old.gz" if use_gzip else "app.log.1.old"
    assert contents(tmp_path) == {"app.log": "bbbb\n", backup: "aaaa\n"}


def test_rotator_that_moves_to_another_file_system(tmp_path: Path) -> None:
    """The part file is made where the backup is, so that one rename publishes it."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system to write to")
    archive = other / f"clh-{os.getpid()}"
    archive.mkdir()
    try:
        handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=2, use_gzip=True)
        handler.namer = lambda name: str(archive / os.path.basename(name))
        handler.rotator = lambda source, target: shutil.move(source, target)
        write(handler, "aaaa", "bbbb")
        assert contents(archive) == {"app.log.1.gz": "aaaa\n"}
        assert contents(tmp_path) == {"app.log": "bbbb\n"}
    finally:
        shutil.rmtree(archive)


@linux
def test_handler_that_is_only_dropped_closes_its_files_at_once(tmp_path: Path) -> None:
    """As the standard library's do: no cycle keeps them for the collector."""
    gc.disable()
    try:
        handler = ConcurrentRotatingFileHandler(
            tmp_path / "app.log", maxBytes=10, backupCount=2, use_gzip=True
        )
        write(handler, "aaaa", "bbbb")
        del handler
        assert [path for path in open_paths() if path.startswith(str(tmp_path))] == []
    finally:
        gc.enable()


def test_batch_that_cannot_be_written_reports_each_record(tmp_path: Path) -> None:
    handler = Recording(tmp_path / "app.log")
    (tmp_path / "app.log").mkdir()

    handler.emit_batch([a_record("a"), a_record("b")])

    # Windows has no other word for it.
    expected = PermissionError if os.name == "nt" else IsADirectoryError
    assert [(text, type(error)) for text, error in handler.failures] == [("a", expected), ("b", expected)]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="closes what Wine and Windows need themselves")
def test_descriptors_closed_beneath_a_compression(tmp_path: Path) -> None:
    """The backup stays as it is, and what the application opens next is not written to."""
    run_program(
        """
        import logging, os, pathlib, threading
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        from concurrent_log_handler._backups import _compressor

        reading, go_on = threading.Event(), threading.Event()
        read = _compressor.read_at
        def waiting_read(fd, size, offset):
            data = read(fd, size, offset)
            if threading.current_thread() is not threading.main_thread() and size > 10000:
                reading.set()
                assert go_on.wait(20)
            return data
        _compressor.read_at = waiting_read

        handler = ConcurrentRotatingFileHandler(
            "app.log", maxBytes=3_000_000, backupCount=3, use_gzip=True, background_gzip=True
        )
        errors = []
        handler.handleError = errors.append
        lines = [f"{n:03d}" + "x" * 100_000 for n in range(31)]
        for line in lines:
            handler.handle(logging.LogRecord("n", 20, "f", 1, line, (), None))
        assert reading.wait(20)
        os.closerange(3, 64)
        mine = [open(f"mine{n}", "wb+", buffering=0) for n in range(24)]
        go_on.set()
        handler.close()
        assert [os.path.getsize(f"mine{n}") for n in range(24)] == [0] * 24
        for file in mine:
            file.write(b"still open")
            file.close()
        kept = [pathlib.Path(name).read_text() for name in ("app.log.1", "app.log")]
        assert "".join(kept).splitlines() == lines
        assert len(errors) == 1
        """,
        tmp_path,
    )


@pytest.mark.slow
def test_close_returns_while_other_threads_go_on_rotating(tmp_path: Path) -> None:
    """It waits for what there is to compress, not for what is still to come."""
    run_program(
        """
        import logging, os, threading
        from concurrent_log_handler import ConcurrentRotatingFileHandler

        handler = ConcurrentRotatingFileHandler(
            "app.log", maxBytes=3000, backupCount=500, use_gzip=True, background_gzip=True
        )
        rotating = threading.Event()
        def log():
            while True:
                handler.handle(logging.LogRecord("n", 20, "f", 1, "z" * 40, (), None))
                if handler.num_rollovers > 20:
                    rotating.set()
        for _ in range(3):
            threading.Thread(target=log, daemon=True).start()
        assert rotating.wait(100)
        closing = threading.Thread(target=handler.close, daemon=True)
        closing.start()
        closing.join(20)
        os._exit(closing.is_alive())
        """,
        tmp_path,
    )


@pytest.mark.slow
def test_interrupted_compression_leaves_nothing_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next rotation compresses what an interrupt left, and no descriptor stays open."""

    compress = Job.compress

    def interrupted(job: Job) -> None:
        monkeypatch.setattr(Job, "compress", compress)
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "compress", interrupted)
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=5, use_gzip=True)
    write(handler, "aaaa")
    with pytest.raises(KeyboardInterrupt):
        write(handler, "bbbb")
    write(handler, "cccc")

    assert contents(tmp_path) == {"app.log": "cccc\n", "app.log.1.gz": "bbbb\n", "app.log.2.gz": "aaaa\n"}
    assert gzip.decompress((tmp_path / "app.log.2.gz").read_bytes()) == b"aaaa" + os.linesep.encode()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_fork_in_one_thread_and_configuration_in_another(tmp_path: Path) -> None:
    """Both take logging's own lock before a handler's, so neither waits for the other for ever."""
    run_program(
        """
        import logging.config, os, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork() beside threads
        configuration = {
            "version": 1,
            "handlers": {"file": {
                "class": "concurrent_log_handler.ConcurrentRotatingFileHandler",
                "filename": "app.log", "lock_timeout": None,
            }},
            "root": {"handlers": ["file"], "level": "INFO"},
        }
        def configure():
            for _ in range(2000):
                logging.config.dictConfig(configuration)
        def fork():
            for _ in range(100):
                pid = os.fork()
                if not pid:
                    logging.info("child")
                    os._exit(0)
                assert os.waitpid(pid, 0)[1] == 0
        threads = [threading.Thread(target=each, daemon=True) for each in (configure, fork)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(25)
        os._exit(any(thread.is_alive() for thread in threads))
        """,
        tmp_path,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_fork_inside_a_formatter_that_returns_in_both(tmp_path: Path) -> None:
    """The child's copy of the call releases what it takes."""
    run_program(
        """
        import logging, os, pathlib, time
        from concurrent_log_handler import ConcurrentRotatingFileHandler

        parent, children = os.getpid(), []
        ready, told = os.pipe()
        over, end = os.pipe()
        class Forking(logging.Formatter):
            def format(self, record):
                if record.msg == "fork" and not children:
                    children.append(os.fork())
                return f"{os.getpid() == parent} {record.msg}"
        handler = ConcurrentRotatingFileHandler("app.log", lock_timeout=10)
        handler.setFormatter(Forking())
        handler.handle(logging.LogRecord("n", 20, "f", 1, "fork", (), None))
        if os.getpid() != parent:
            os.write(told, b"x")
            os.close(end)
            os.read(over, 1)
            os._exit(0)
        os.read(ready, 1)
        started = time.monotonic()
        handler.handle(logging.LogRecord("n", 20, "f", 1, "after", (), None))
        assert time.monotonic() - started < 5
        os.close(end)
        assert os.waitpid(children[0], 0)[1] == 0
        assert sorted(pathlib.Path("app.log").read_text().splitlines()) == ["False fork", "True after", "True fork"]
        """,
        tmp_path,
    )


def test_live_file_taken_away_in_the_middle_of_a_rotation(tmp_path: Path) -> None:
    """Nothing is left to rotate then, and nothing is wrong."""

    class Robbed(Strict):
        def rotate(self, source: str, dest: str) -> None:
            os.rename(source, tmp_path / "taken")
            super().rotate(source, dest)
            os.rename(source, dest)  # what the standard library does after its look at the file

    handler = Robbed(tmp_path / "app.log", maxBytes=10, backupCount=2)
    write(handler, "aaaa", "bbbb")

    assert contents(tmp_path) == {"app.log": "bbbb\n", "taken": "aaaa\n"}


def test_backup_removed_in_the_middle_of_a_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=5)
    write(handler, "aaaa", "bbbb", "cccc", "dddd")
    rename = os.rename

    def robbed(source: str, target: str) -> None:
        monkeypatch.setattr(os, "rename", rename)
        os.unlink(source)
        rename(source, target)

    monkeypatch.setattr(os, "rename", robbed)
    write(handler, "eeee")

    assert contents(tmp_path) == {
        "app.log": "eeee\n",
        "app.log.1": "dddd\n",
        "app.log.2": "cccc\n",
        "app.log.3": "bbbb\n",
    }


@pytest.mark.parametrize(
    "name", ["do_gzip", "do_write", "_do_lock", "_get_current_time", "read_rollover_time"]
)
def test_subclass_with_a_method_that_only_the_old_package_called(name: str) -> None:
    """One clear line in place of a compression, say, that quietly is another one."""
    with pytest.warns(UserWarning, match=rf"Mine\.{name} is not called any more") as caught:
        type("Mine", (ConcurrentRotatingFileHandler,), {name: lambda self: None})
    assert [each.filename for each in caught] == [__file__], "at the class"
