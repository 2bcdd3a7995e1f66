"""Owner and mode hold from the first moment; what somebody planted is not touched; exec inherits nothing."""

from __future__ import annotations

import errno
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from concurrent_log_handler import ConcurrentRotatingFileHandler, ConcurrentTimedRotatingFileHandler
from concurrent_log_handler._access import Access
from concurrent_log_handler._files import is_ours, mark
from handler_support import (
    Recording,
    Strict,
    a_live_file,
    a_record,
    after_every_call,
    contents,
    in_a_fork,
    write,
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
as_root = pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

pwd = pytest.importorskip("pwd")
NOBODY = pwd.getpwnam("nobody")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def modes(directory: Path) -> dict[str, int]:
    return {path.name: mode(path) for path in directory.iterdir()}


def as_nobody(action: Callable[[], object]) -> None:
    """Run *action* as another user, in a forked child."""

    def become_nobody() -> None:
        os.setgroups([])
        os.setgid(NOBODY.pw_gid)
        os.setuid(NOBODY.pw_uid)
        action()

    in_a_fork(become_nobody)


@pytest.fixture(params=["O_TMPFILE", "O_EXCL"])
def way_to_create(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With files that have no name at first, and on file systems that have no such thing."""
    if request.param == "O_EXCL":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif not hasattr(os, "O_TMPFILE"):
        pytest.skip("no O_TMPFILE here")
    return str(request.param)


# -- from the first moment ----------------------------------------------------


@pytest.mark.parametrize("process_umask", [0, 0o022, 0o077])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"chmod": 0o600}, 0o600),
        ({"chmod": 0o666}, 0o666),
        ({"chmod": "0640"}, 0o640),
        ({"umask": 0o027}, 0o640),
        ({"umask": 0}, 0o666),
        ({"umask": 0o077, "chmod": 0o644}, 0o644),
    ],
)
def test_all_files_have_the_mode_that_was_asked_for(
    tmp_path: Path, arguments: dict[str, Any], expected: int, process_umask: int, way_to_create: str
) -> None:
    os.umask(process_umask)
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=3, **arguments)

    write(handler, "aaaa", "bbbb")
    handler.use_gzip = True
    write(handler, "cccc")

    assert modes(tmp_path) == dict.fromkeys(
        (".__app.lock", "app.log", "app.log.1.gz", "app.log.2.gz"), expected
    )


@pytest.mark.parametrize(("process_umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0, 0o666)])
def test_without_arguments_the_umask_of_the_process_decides(
    tmp_path: Path, process_umask: int, expected: int
) -> None:
    os.umask(process_umask)

    write(Strict(tmp_path / "app.log", maxBytes=10, backupCount=3, use_gzip=True), "aaaa", "bbbb")

    assert modes(tmp_path) == dict.fromkeys((".__app.lock", "app.log", "app.log.1.gz"), expected)


def allowed_more_than(directory: Path, limit: int) -> tuple[set[str], Callable[[str], None]]:
    seen: set[str] = set()

    def look(step: str) -> None:
        for entry in os.scandir(directory):
            try:
                found = entry.stat(follow_symlinks=False).st_mode & 0o7777
            except FileNotFoundError:
                continue
            if found & ~limit:
                seen.add(f"{entry.name} {found:o} after {step}")

    return seen, look


@pytest.mark.parametrize("arguments", [{"chmod": 0o600}, {"umask": 0o077}, {"chmod": 0o640}])
def test_no_moment_in_which_others_could_open_it(
    tmp_path: Path, arguments: dict[str, Any], way_to_create: str
) -> None:
    """Live file, lock file, backups, under a umask that allows all."""
    os.umask(0)
    limit = arguments.get("chmod", 0o600)
    seen, look = allowed_more_than(tmp_path, limit)

    with after_every_call(look):
        for delay in (False, True):
            handler = Strict(tmp_path / f"{delay}.log", maxBytes=10, backupCount=2, delay=delay, **arguments)
            write(handler, "aaaa", "bbbb", "cccc")
            os.unlink(handler.lockFilename)
            write(handler, "dddd")
            handler.close()
            write(handler, "eeee")

    assert seen == set()


def test_the_check_itself_sees_a_window(tmp_path: Path) -> None:
    """A proof by looking is worth nothing if the look is blind."""
    os.umask(0)
    seen, look = allowed_more_than(tmp_path, 0o600)

    with after_every_call(look):
        path = tmp_path / "app.log"
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
        os.chmod(path, 0o600)

    assert seen == {"app.log 644 after open", "app.log 644 after close"}


@linux
@pytest.mark.parametrize("arguments", [{"umask": 0o027}, {"chmod": 0o600}, {}])
def test_umask_of_the_process_is_never_touched(tmp_path: Path, arguments: dict[str, Any]) -> None:
    """It belongs to all threads: a file that another one makes meanwhile would get the wrong mode."""
    os.umask(0o022)
    status = os.open("/proc/self/status", os.O_RDONLY)
    seen: set[bytes] = set()

    def look(step: str) -> None:
        seen.add(os.pread(status, 4096, 0).split(b"Umask:\t")[1][:4])

    try:
        with after_every_call(look):
            handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=2, use_gzip=True, **arguments)
            write(handler, "aaaa", "bbbb")
    finally:
        os.close(status)

    assert seen == {b"0022"}


@as_root
def test_owner_holds_from_the_first_moment(tmp_path: Path, way_to_create: str) -> None:
    """No moment either in which the wrong owner could open it."""
    os.umask(0)
    wrong: set[str] = set()

    def look(step: str) -> None:
        for entry in os.scandir(tmp_path):
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if (found.st_uid, found.st_gid) != (1234, 4321) and found.st_mode & 0o077:
                wrong.add(f"{entry.name} {found.st_uid}:{found.st_gid} {found.st_mode:o} after {step}")

    with after_every_call(look):
        handler = Strict(
            tmp_path / "app.log", maxBytes=10, backupCount=3, owner=(1234, 4321), chmod=0o660, use_gzip=True
        )
        write(handler, "aaaa", "bbbb", "cccc")

    assert wrong == set()
    assert {(path.stat().st_uid, path.stat().st_gid, mode(path)) for path in tmp_path.iterdir()} == {
        (1234, 4321, 0o660)
    }
    assert len(contents(tmp_path)) == 3


@as_root
@pytest.mark.parametrize(
    ("owner", "expected"),
    [((1234, None), (1234, 0)), ((None, 4321), (0, 4321)), (("nobody", None), (NOBODY.pw_uid, 0))],
)
def test_half_an_owner(tmp_path: Path, owner: tuple[Any, Any], expected: tuple[int, int]) -> None:
    write(Strict(tmp_path / "app.log", owner=owner), "one")

    assert {(path.stat().st_uid, path.stat().st_gid) for path in tmp_path.iterdir()} == {expected}


# -- existing files, other users ----------------------------------------------


def test_existing_files_get_the_mode(tmp_path: Path) -> None:
    for name in ("app.log", ".__app.lock"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o666)

    write(Strict(tmp_path / "app.log", chmod=0o640), "one")

    assert modes(tmp_path) == {"app.log": 0o640, ".__app.lock": 0o640}


def test_umask_leaves_existing_files_alone(tmp_path: Path) -> None:
    (tmp_path / "app.log").touch()
    (tmp_path / "app.log").chmod(0o666)

    write(Strict(tmp_path / "app.log", umask=0o077), "one")

    assert modes(tmp_path) == {"app.log": 0o666, ".__app.lock": 0o600}


@as_root
@pytest.mark.parametrize(
    "arguments", [{}, {"chmod": 0o660}, {"umask": 0}, {"owner": ("root", "root"), "chmod": 0o600}]
)
@pytest.mark.parametrize("gzip", [False, True])
def test_second_user_who_may_write_but_not_chmod_logs(
    public: Path, arguments: dict[str, Any], gzip: bool
) -> None:
    first = Strict(public / "app.log", maxBytes=20, backupCount=5, chmod=0o666, use_gzip=gzip)
    write(first, "root")

    as_nobody(
        lambda: write(
            Strict(public / "app.log", maxBytes=20, backupCount=5, use_gzip=gzip, **arguments), "nobody"
        )
    )
    assert contents(public) == {"app.log": "root\nnobody\n"}
    assert modes(public) == {"app.log": 0o666, ".__app.lock": 0o666}

    as_nobody(
        lambda: write(
            Strict(public / "app.log", maxBytes=20, backupCount=5, use_gzip=gzip, **arguments), "x" * 15
        )
    )
    backup = "app.log.1.gz" if gzip else "app.log.1"
    assert contents(public) == {"app.log": "x" * 15 + "\n", backup: "root\nnobody\n"}


@as_root
def test_second_user_inherits_a_handler_by_fork(public: Path) -> None:
    """As a server that drops its rights after it set logging up."""
    handler = Strict(public / "app.log", maxBytes=1000, backupCount=5, chmod=0o666)
    write(handler, "root")

    as_nobody(lambda: write(handler, "nobody"))

    assert contents(public) == {"app.log": "root\nnobody\n"}


@as_root
def test_lock_file_that_may_only_be_read_still_locks(public: Path) -> None:
    (public / "app.log").touch()
    (public / "app.log").chmod(0o666)
    (public / ".__app.lock").touch()
    (public / ".__app.lock").chmod(0o444)

    as_nobody(lambda: write(Strict(public / "app.log"), "nobody"))

    assert contents(public) == {"app.log": "nobody\n"}


@as_root
def test_log_that_may_only_be_written_takes_records(public: Path) -> None:
    (public / "app.log").touch()
    (public / "app.log").chmod(0o222)

    as_nobody(lambda: write(Strict(public / "app.log"), "one", "two"))

    assert contents(public) == {"app.log": "one\ntwo\n"}


@as_root
def test_directory_that_may_not_be_written_still_takes_records(public: Path) -> None:
    """No lock file can be made, nothing can be renamed: told once, and every record is there."""
    (public / "app.log").touch()
    (public / "app.log").chmod(0o666)
    public.chmod(0o755)

    def action() -> None:
        handler = Recording(public / "app.log", maxBytes=10, backupCount=2)
        write(handler, "aaaa", "bbbb", "cccc")
        assert len(handler.failures) == 1
        assert isinstance(handler.failures[0][1], PermissionError)

    as_nobody(action)

    assert contents(public) == {"app.log": "aaaa\nbbbb\ncccc\n"}


@as_root
@pytest.mark.parametrize("arguments", [{}, {"chmod": 0o666}, {"umask": 0}])
def test_sticky_directory_where_o_creat_of_a_foreign_file_is_refused(
    public: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    """fs.protected_regular: in a directory such as /tmp, O_CREAT fails on a file of somebody else."""
    public.chmod(0o1777)
    os.umask(0)
    write(Strict(public / "app.log"), "root")
    real = os.open

    def protected(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_CREAT and not flags & os.O_EXCL:
            try:
                foreign = os.stat(path).st_uid != os.getuid()
            except OSError:
                foreign = False
            if foreign:
                raise PermissionError(errno.EACCES, "fs.protected_regular", os.fspath(path))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", protected)
    as_nobody(lambda: write(Strict(public / "app.log", **arguments), "nobody"))

    assert contents(public) == {"app.log": "root\nnobody\n"}


# -- what somebody planted at the lock file's path ----------------------------


def plant(path: Path, kind: str) -> Optional[Path]:
    """Put something other than a regular file at *path*; returns what it leads to."""
    target = path.parent / "target"
    if kind == "link":
        target.write_text("precious\n")
        target.chmod(0o644)
        os.utime(target, (1e9, 1e9))
        path.symlink_to(target)
        return target
    if kind == "dangling link":
        path.symlink_to(target)
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("devices cannot be made here")
    return None


PLANTED = ["link", "dangling link", "directory", "pipe", "device"]


def fingerprint(path: Path) -> tuple[Any, ...]:
    found = path.lstat()
    return found.st_mode, found.st_uid, found.st_gid, found.st_mtime, found.st_size, found.st_ino


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("delay", [None, False])
def test_planted_at_construction_is_a_clear_error(tmp_path: Path, kind: str, delay: Optional[bool]) -> None:
    path = tmp_path / ".__app.lock"
    target = plant(path, kind)
    before = [fingerprint(each) for each in (path, target) if each]

    with pytest.raises(
        OSError, match="the lock file must be a regular file, and something else lies there"
    ) as raised:
        ConcurrentRotatingFileHandler(tmp_path / "app.log", chmod=0o600, delay=delay)

    assert raised.value.filename == str(path)
    assert [fingerprint(each) for each in (path, target) if each] == before
    assert sorted(os.listdir(tmp_path)) == sorted(each.name for each in (path, target) if each)


@pytest.mark.parametrize("planted_later", [False, True])
@pytest.mark.parametrize("timed", [False, True])
def test_hard_link_planted_as_lock_file_is_locked_and_nothing_else(
    tmp_path: Path, timed: bool, planted_later: bool
) -> None:
    """In a directory that others may write: a file of ours under a second name gets no mode, owner, time or content."""
    target, path = tmp_path / "target", tmp_path / ".__app.lock"
    target.write_text("not yours\n")
    target.chmod(0o640)
    options: dict[str, Any] = {"chmod": 0o666, "umask": 0, "owner": (1, 1), "lock_timeout": 1}
    kind = (
        (ConcurrentTimedRotatingFileHandler, {"when": "S"}) if timed else (ConcurrentRotatingFileHandler, {})
    )
    before = fingerprint(target)

    def log(text: str) -> None:
        handler = kind[0](tmp_path / "app.log", backupCount=9, maxBytes=20, **options, **kind[1])
        handler.handleError = lambda record: None  # type: ignore[method-assign]
        write(handler, text, text)
        handler.close()

    if planted_later:
        log("before it")
        path.unlink()
    os.link(target, path)
    log("behind it")

    assert fingerprint(target)[:-1] == before[:-1]
    assert target.read_text() == "not yours\n"
    written = "".join(text for name, text in contents(tmp_path).items() if name.startswith("app.log"))
    assert written.count("behind it\n") == 2


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_later_costs_no_record_and_is_told_once(tmp_path: Path, kind: str) -> None:
    handler = Recording(tmp_path / "app.log", chmod=0o600, lock_timeout=0.2)
    write(handler, "one")
    handler.close()
    path = tmp_path / ".__app.lock"
    path.unlink()
    target = plant(path, kind)
    before = [fingerprint(each) for each in (path, target) if each]

    write(handler, "two", "three", "four")

    assert (tmp_path / "app.log").read_text() == "one\ntwo\nthree\nfour\n"
    ((text, error),) = handler.failures
    assert text == "two"
    assert isinstance(error, OSError)
    assert [fingerprint(each) for each in (path, target) if each] == before


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_under_a_handler_that_is_in_use(tmp_path: Path, kind: str) -> None:
    """It is found out where it matters: before something is renamed."""
    handler = Recording(tmp_path / "app.log", maxBytes=20, backupCount=3, chmod=0o600, lock_timeout=0.2)
    write(handler, "one")
    path = tmp_path / ".__app.lock"
    path.unlink()
    target = plant(path, kind)
    before = [fingerprint(each) for each in (path, target) if each]

    write(handler, "two" * 5, "three" * 5, "four" * 5)
    assert len(handler.failures) == 1
    assert [fingerprint(each) for each in (path, target) if each] == before
    path.rmdir() if kind == "directory" else path.unlink()
    if target:
        target.unlink()
    write(handler, "five" * 5)

    files = contents(tmp_path)
    assert "".join(files[name] for name in sorted(files, reverse=True)) == "".join(
        f"{text}\n" for text in ("one", "two" * 5, "three" * 5, "four" * 5, "five" * 5)
    )
    assert len(handler.failures) == 1


def test_link_in_place_of_the_part_file_is_not_followed(tmp_path: Path) -> None:
    """Its name can be guessed: it is made from the backup's inode."""
    target = tmp_path / "target"
    target.write_text("precious\n")
    handler = Strict(tmp_path / "app.log", maxBytes=10, backupCount=3, use_gzip=True)
    write(handler, "aaaa")
    inode = (tmp_path / "app.log").stat().st_ino
    (tmp_path / f".__app.log.{inode:x}.part").symlink_to(target)

    write(handler, "bbbb")

    assert contents(tmp_path) == {"app.log": "bbbb\n", "app.log.1.gz": "aaaa\n", "target": "precious\n"}


# -- descriptors --------------------------------------------------------------


@linux
@pytest.mark.parametrize("background", [False, True])
def test_exec_inherits_no_descriptor(tmp_path: Path, background: bool) -> None:
    """Not even one in the middle of a rotation: a child that keeps the lock would stop everybody."""
    seen: list[str] = []

    def spawn(*_: Any) -> None:
        program = """if True:
            import os
            for fd in os.listdir("/proc/self/fd"):
                path = f"/proc/self/fd/{fd}"
                print(os.path.lexists(path) and os.readlink(path))
            """
        done = subprocess.run(
            [sys.executable, "-S", "-c", program],
            close_fds=False,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        seen.append(done.stdout)

    def rotator(source: str, target: str) -> None:
        spawn()
        os.rename(source, target)

    handler = Strict(
        tmp_path / "app.log",
        maxBytes=10,
        backupCount=3,
        use_gzip=True,
        background_gzip=background,
        chmod=0o600,
    )
    handler.rotator = rotator
    write(handler, "aaaa", "bbbb")
    spawn()
    handler.close()

    assert len(seen) == 2
    assert not [paths for paths in seen if str(tmp_path) in paths]


def test_mark_knows_a_descriptor_again(tmp_path: Path) -> None:
    """The next file that is opened gets the number of the one that was closed."""
    (tmp_path / "ours").touch()
    ours = os.open(tmp_path / "ours", os.O_RDWR)
    number = mark(ours)
    assert is_ours(ours, number)

    os.close(ours)
    assert not is_ours(ours, number)
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)

    assert other == ours
    assert not is_ours(other, number)
    os.close(other)
    assert not is_ours(-1, -1)


def test_access_create_wants_a_new_file(tmp_path: Path) -> None:
    for access in (Access(), Access(chmod=0o600)):
        path = tmp_path / f"{id(access)}"
        access.create(str(path))
        with pytest.raises(FileExistsError):
            access.create(str(path))


def test_access_open_through_a_dangling_link(tmp_path: Path) -> None:
    """The live file may be a link to where it shall be created."""
    (tmp_path / "app.log").symlink_to(tmp_path / "real.log")

    write(Strict(tmp_path / "app.log", chmod=0o600), "one")

    assert contents(tmp_path) == {"app.log": f"-> {tmp_path / 'real.log'}", "real.log": "one\n"}
    assert mode(tmp_path / "real.log") == 0o600


def test_handler_of_a_closed_application_still_keeps_the_mode(tmp_path: Path) -> None:
    os.umask(0)
    handler = Strict(tmp_path / "app.log", chmod=0o600)
    handler.handle(a_record("one", level=logging.ERROR))
    (tmp_path / "app.log").unlink()
    write(handler, "two")

    assert modes(tmp_path) == {"app.log": 0o600, ".__app.lock": 0o600}


@as_root
@pytest.mark.parametrize("use_gzip", [False, True])
def test_rights_given_up_with_a_directory_that_is_closed_then(public: Path, use_gzip: bool) -> None:
    """A daemon that root starts opens its log in `/var/log/app`, and may not look into it any more."""
    closed = public / "closed"
    closed.mkdir(mode=0o700)
    handler = Recording(closed / "app.log", maxBytes=100, backupCount=3, use_gzip=use_gzip)
    write(handler, "root")

    def go_on() -> None:
        write(handler, *(f"record {number} {'x' * 20}" for number in range(8)))
        handler.emit_batch([a_record("batch")])
        assert [type(error) for _, error in handler.failures] == [PermissionError], handler.failures

    as_nobody(go_on)

    texts = [f"record {number} {'x' * 20}" for number in range(8)]
    assert contents(closed)["app.log"].splitlines() == ["root", *texts, "batch"]


def in_a_jail(jail: Path, action: Callable[[], object]) -> None:
    """Run *action* in a forked child for which *jail* is the whole world."""
    jail.mkdir(exist_ok=True)

    def locked_up() -> None:
        os.chroot(jail)
        os.chdir("/")
        action()

    in_a_fork(locked_up)


@as_root
@pytest.mark.parametrize("directory_there", [False, True])
def test_file_that_is_open_goes_on_being_used_in_a_jail(tmp_path: Path, directory_there: bool) -> None:
    """A daemon opens its log, then locks itself up: the path leads nowhere there, and nothing is made for it."""
    jail, logs = tmp_path / "jail", tmp_path / "logs"
    logs.mkdir()
    live = a_live_file(logs)
    live.append(b"before\n", live.look())
    jail.mkdir()
    if directory_there:
        Path(f"{jail}{logs}").mkdir(parents=True)
    made = set(jail.rglob("*"))

    def go_on() -> None:
        for number in range(3):
            live.append(b"record %d\n" % number, live.look())
            live.append_apart(b"apart %d\n" % number)

    in_a_jail(jail, go_on)

    assert set(jail.rglob("*")) == made
    records = [f"record {number}\napart {number}\n" for number in range(3)]
    assert contents(logs) == {"app.log": "before\n" + "".join(records)}


@as_root
@pytest.mark.parametrize("way", ["never opened", "removed"])
def test_log_that_is_not_there_in_a_jail_is_an_error(tmp_path: Path, way: str) -> None:
    """It is told, and no directory is made that nobody would look into."""
    jail, logs = tmp_path / "jail", tmp_path / "logs"
    logs.mkdir()
    live = a_live_file(logs)
    if way == "removed":
        live.append(b"before\n", live.look())
        (logs / "app.log").unlink()

    def go_on() -> None:
        with pytest.raises(FileNotFoundError):
            live.append(b"record\n", live.look())
        with pytest.raises(FileNotFoundError):
            live.append_apart(b"apart\n")

    in_a_jail(jail, go_on)

    assert contents(tmp_path) == {"jail/": "", "logs/": ""}


@as_root
def test_log_that_is_there_in_a_jail_is_taken(tmp_path: Path) -> None:
    """Somebody has made one for the time after: its path leads somewhere."""
    jail, logs = tmp_path / "jail", tmp_path / "logs"
    logs.mkdir()
    inside = Path(f"{jail}{logs}/app.log")
    inside.parent.mkdir(parents=True)
    inside.touch()
    live = a_live_file(logs)
    live.append(b"before\n", live.look())

    in_a_jail(jail, lambda: live.append(b"inside\n", live.look()))

    assert (inside.read_text(), contents(logs)) == ("inside\n", {"app.log": "before\n"})


# core classes
@as_root
@pytest.mark.parametrize("kind", [ConcurrentRotatingFileHandler, ConcurrentTimedRotatingFileHandler])
@pytest.mark.parametrize("used_before", [True, False])
def test_handler_goes_on_in_a_jail(tmp_path: Path, kind: Any, used_before: bool) -> None:
    """With the lock file and the log that it has open; also where a rotation is due, which cannot be done there."""
    jail, logs = tmp_path / "jail", tmp_path / "logs"
    logs.mkdir()
    failures: list[object] = []

    class Noting(kind):  # type: ignore[misc]
        def handleError(self, record: logging.LogRecord) -> None:
            failures.append(sys.exc_info()[1])

    def locked_up() -> None:
        # Not in the parent: a forked child needs a descriptor of its own for the lock.
        handler = Noting(logs / "app.log", maxBytes=20, backupCount=3, max_age=3600, delay=False)
        if used_before:
            write(handler, "before")
        os.chroot(jail)
        os.chdir("/")
        write(handler, *(f"record {number}" for number in range(5)))
        handler.emit_batch([a_record("batch")])
        assert failures == []

    jail.mkdir()
    in_a_fork(locked_up)

    assert list(jail.iterdir()) == []
    lines = [*(["before"] if used_before else []), *(f"record {number}" for number in range(5)), "batch"]
    logged = {name: text for name, text in contents(logs).items() if name.startswith("app.log")}
    assert logged == {"app.log": "".join(f"{line}\n" for line in lines)}


@as_root
def test_member_of_the_group_keeps_it(public: Path) -> None:
    """Only root gives a file to another user, but a member may give his to the group: all go on logging."""
    first = Strict(
        public / "app.log", maxBytes=20, backupCount=5, owner=(1001, 4), chmod=0o660, use_gzip=True
    )
    write(first, "first")

    def another() -> None:
        os.setgroups([4])
        os.setgid(100)
        os.setuid(1002)
        write(first, "x" * 15, "second")

    in_a_fork(another)

    found = {path.name: (path.stat().st_gid, mode(path)) for path in public.glob("app.log*")}
    assert found == dict.fromkeys(("app.log", "app.log.1.gz", "app.log.2.gz"), (4, 432))


@as_root
def test_gz_of_a_stranger_allows_his_group_nothing(public: Path) -> None:
    """What members of one group may read is not for those of the one that he happens to be in."""
    first = Strict(public / "app.log", maxBytes=10, backupCount=5, use_gzip=True)
    write(first, "first")
    os.chown(public / "app.log", 0, 4)
    (public / "app.log").chmod(0o666)
    (public / first.lockFilename).chmod(0o666)

    as_nobody(lambda: write(Strict(public / "app.log", maxBytes=10, backupCount=5, use_gzip=True), "second"))

    assert contents(public)["app.log.1.gz"] == "first\n"
    assert mode(public / "app.log.1.gz") == 0o606


def test_mode_that_may_not_be_set_once_the_file_is_given_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way_to_create: str
) -> None:
    """A container may have the right to give files away (CAP_CHOWN), and none over what is not its own."""
    given: set[int] = set()
    fchmod = os.fchmod

    def fchmod_of_ones_own(fd: int, bits: int) -> None:
        if os.fstat(fd).st_ino in given:
            raise PermissionError(errno.EPERM, "not the owner")
        fchmod(fd, bits)

    monkeypatch.setattr(os, "fchown", lambda fd, *_: given.add(os.fstat(fd).st_ino))
    monkeypatch.setattr(os, "fchmod", fchmod_of_ones_own)
    write(Strict(tmp_path / "app.log", owner=(1001, 4), chmod=0o640), "text")

    assert contents(tmp_path) == {"app.log": "text\n"}
    assert mode(tmp_path / "app.log") == (0o640 if way_to_create == "O_TMPFILE" else 0o600)


@as_root
def test_rights_given_up_and_the_file_taken_out_of_use(public: Path) -> None:
    """Root rotates and compresses: what cannot be written to the log any more is reported, not lost in silence."""
    closed = public / "closed"
    closed.mkdir(mode=0o700)
    path = closed / "app.log"
    handler = Recording(path, maxBytes=100, backupCount=9, use_gzip=True)
    write(handler, "before")

    def go_on() -> None:
        rooted = os.fork()
        if not rooted:
            other = Strict(path, maxBytes=100, backupCount=9, use_gzip=True)
            other.doRollover()
            os._exit(0)
        assert os.waitpid(rooted, 0)[1] == 0
        os.setgroups([])
        os.setgid(NOBODY.pw_gid)
        os.setuid(NOBODY.pw_uid)
        write(handler, "one", "two")
        assert [(text, type(error)) for text, error in handler.failures] == [
            ("one", PermissionError),
            ("two", PermissionError),
        ]

    in_a_fork(go_on)

    assert contents(closed)["app.log.1.gz"] == "before\n"
