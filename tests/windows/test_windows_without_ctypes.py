"""Windows where Python was built without ctypes: a file that is open cannot be renamed, so none stays open.

Runs on Windows, and under Wine by `run.py` beside this file: in programs that find another `ctypes` first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

if os.name != "nt":
    pytest.skip("files of Windows", allow_module_level=True)

from handler_support import contents

PRELUDE = """
import gzip, os, pickle, threading, time
from concurrent_log_handler import _files
from handler_support import Recording, Strict, write
assert _files.WINDOWS and not _files.RENAMES_OPEN
def assert_closed(path="app.log"):
    # What anybody has open cannot be renamed.
    os.rename(path, path + ".free")
    os.rename(path + ".free", path)
"""


def run(directory: Path, program: str) -> None:
    without = directory / "without"
    without.mkdir()
    (without / "ctypes.py").write_text("raise ImportError('left out')")
    path = [str(without), *sys.path]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(program)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    (without / "ctypes.py").unlink()
    without.rmdir()


def test_log_is_closed_after_each_write(tmp_path: Path) -> None:
    """Whoever keeps it open keeps everybody else from rotating."""
    run(
        tmp_path,
        """
        handler = Strict("app.log", backupCount=2, delay=False)
        assert_closed()
        write(handler, "one", "two")
        assert_closed()
        handler.doRollover()
        write(pickle.loads(pickle.dumps(handler)), "three")
        assert_closed()
        handler.close()
        write(handler, "four")
        assert_closed()
        """,
    )

    assert contents(tmp_path) == {"app.log": "three\nfour\n", "app.log.1": "one\ntwo\n"}


@pytest.mark.parametrize("background", [False, True])
def test_gzip_in_the_lock(tmp_path: Path, background: bool) -> None:
    """Nobody comes in between; what was plain before is compressed, too, and keeps its time."""
    for number in range(2, 8):
        (tmp_path / f"app.log.{number}").write_text(f"backup {number}\n")
    (tmp_path / "app.log.1").write_text("backup 1\n")
    os.utime(tmp_path / "app.log.1", (1_000_000_000, 1_111_111_111))

    run(
        tmp_path,
        f"""
        handler = Strict("app.log", maxBytes=12, backupCount=20, use_gzip=True, background_gzip={background})
        write(handler, "aaaa", "bbbb")
        handler.close()
        assert_closed()
        assert_closed("app.log.1.gz")
        assert os.stat("app.log.2.gz").st_mtime == 1_111_111_111
        """,
    )

    assert contents(tmp_path) == {
        "app.log": "bbbb\n",
        "app.log.1.gz": "aaaa\n",
        **{f"app.log.{number + 1}.gz": f"backup {number}\n" for number in range(1, 8)},
    }


@pytest.mark.parametrize("held", ["app.log", "app.log.1", "app.log.2.gz"])
def test_file_that_somebody_holds_open_is_moved_later(tmp_path: Path, held: str) -> None:
    """Records go on into the live file, told once; the shift goes on from where it stopped."""
    gz = held.endswith(".gz")
    run(
        tmp_path,
        f"""
        handler = Recording("app.log", maxBytes=12, backupCount=3, use_gzip={gz})
        write(handler, "aaaa", "bbbb", "cccc")
        viewer = open({held!r}, "rb")
        write(handler, "dddd", "eeee")
        assert [error.winerror for _, error in handler.failures] == [32], handler.failures
        viewer.close()
        time.sleep(0.3)
        write(handler, "ffff")
        assert len(handler.failures) == 1, handler.failures
        """,
    )

    end = ".gz" if gz else ""
    assert contents(tmp_path) == {
        "app.log": "ffff\n",
        f"app.log.1{end}": "cccc\ndddd\neeee\n",
        f"app.log.2{end}": "bbbb\n",
        f"app.log.3{end}": "aaaa\n",
    }
