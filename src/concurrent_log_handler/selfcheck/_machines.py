"""The self-check on several machines at once: is a lock kept for all of them, and is their common log whole?

Each machine runs this same program; `_meeting` brings them together and says when all have come so far.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any, Callable, Optional

from concurrent_log_handler import __version__
from concurrent_log_handler._locks._platform import lock_file_now, unlock_file, wait_for
from concurrent_log_handler._network import file_system_type

from ._check import InterruptedCheckError
from ._meeting import Meeting, MeetingError
from ._records import Claim
from ._round import Result, Round, Settings

_SECONDS = 10.0
_LOCK_SECONDS = 10.0
_NFS, _SMB = "; mount it without nolock and local_lock", "; mount it without nobrl"
_ADVICE = {
    "nfs": _NFS,
    "nfs4": _NFS,
    "cifs": _SMB,
    "smb3": _SMB,
    "fuse.sshfs": "; sshfs has no locks between machines",
}


class MachinesCheck:
    """
    This machine's part in a check of several.

    Args:
        settings: What to do, the same on each machine.
        interrupted: Asked often; true ends the check with `InterruptedCheckError`.
        progress: Told often what is going on, and how many records this machine has written.
    """

    def __init__(
        self, settings: Settings, interrupted: Callable[[], bool], progress: Callable[[str, int], None]
    ) -> None:
        self._settings = settings
        self._interrupted = interrupted
        self._progress = progress
        self._doing = "waiting for the others"
        self._round: Optional[Round] = None
        self._result = Result()
        options = {
            "--version": __version__,
            "--machines": settings.machines,
            "--processes": settings.processes,
            "--records": settings.records,
            "--seconds": settings.seconds,
            "--max-bytes": settings.max_bytes,
            "--backup-count": settings.backup_count,
            "--gzip": settings.gzip,
            "--background-gzip": settings.background_gzip,
            "--shared-between-machines": settings.arguments.get("shared_between_machines"),
        }
        self._share = str(settings.directory)
        self._meeting = Meeting(self._share, options, settings.patience, self._heed)

    def run(self) -> Result:
        """
        Meet the others, try the lock, write and read back.

        Raises:
            MeetingError: The others did not come, or one of them left.
            OSError: The directory cannot be used.
            InterruptedCheckError: The user asked to stop; nothing is left, and the others know.
        """
        reason = "it failed"
        try:
            self._meeting.find_others(self._settings.wait)
            self._result.machines = [self._name(each) for each in self._meeting.members]
            self._try_lock()
            if self._result.good:
                self._write_and_read()
            reason = "it is done"
        except InterruptedCheckError:
            reason = "it was interrupted"
            raise
        except (MeetingError, OSError) as error:
            reason = str(error)
            raise
        finally:
            if self._round:
                self._round.end_all()
            self._doing = "leaving"
            self._meeting.leave(reason)
        return self._result

    def _try_lock(self) -> None:
        """Let each machine in turn hold a lock, and the others try to take it, as handlers take theirs."""
        self._doing = "trying the lock"
        meeting = self._meeting
        path = os.path.join(meeting.directory, "lock")
        for holder in meeting.members:
            file = _LockFile(path) if holder == meeting.me else None
            try:
                state = meeting.gather(f"holds {holder}", file and file.take(_LOCK_SECONDS))[holder]
                if state is not True:
                    self._wrong(
                        f"{meeting.name(holder)} did not get a lock within {_LOCK_SECONDS:g} s, though nobody held it"
                        if state is False
                        else f"{meeting.name(holder)} cannot lock files on this mount ({self._mount()})"
                    )
                    return
                tried = meeting.gather(f"tries {holder}", None if file else _LockFile(path).try_once())
                for each in (each for each in meeting.members if each != holder and tried[each] is not False):
                    got = "got the lock" if tried[each] else "cannot ask for the lock"
                    self._wrong(
                        f"{meeting.name(each)} {got} that {meeting.name(holder)} holds: this mount does not lock on "
                        f"the server, so what one machine writes destroys what another has written ({self._mount()})"
                    )
                if not self._result.good:
                    return
            finally:
                if file:
                    file.close()

    def _mount(self) -> str:
        kind = file_system_type(self._share)
        return f"{kind or 'unknown'}{_ADVICE.get(kind, '')}"

    def _wrong(self, problem: str) -> None:
        self._result.problems.append(problem)

    def _write_and_read(self) -> None:
        settings, meeting, result = self._settings, self._meeting, self._result
        quota = settings.records_per_round() if settings.records is None else settings.records
        first = meeting.members.index(meeting.me) * settings.processes + 1
        self._round = now = Round(settings, result, meeting.directory, quota, first)
        self._doing = "starting"
        for _ in range(settings.processes):
            now.employ(quota)
            meeting.attend()
        while not all(writer.ready for writer in now.living) and not now.ended:
            now.watch(0.1)
            meeting.attend()
        meeting.gather("ready")
        self._doing = "writing"
        for writer in now.living:
            writer.start_writing()
        began = time.monotonic()
        seconds = settings.seconds or (_SECONDS if settings.records is None else float("inf"))
        while now.living:
            now.watch(0.1)
            meeting.attend()
            if time.monotonic() - began >= seconds:
                now.stop.value = 1
        result.seconds = time.monotonic() - began
        self._doing = "waiting for the others"
        for machine, books in meeting.gather("written", _books(now)).items():
            if machine != meeting.me:
                _add(books, now)
        self._doing = "reading back"
        now.read_back(meeting.attend)
        for machine, good in meeting.gather("read", result.good).items():
            if not good and result.good:
                self._wrong(f"{self._name(machine)} found something wrong; see there")

    def _name(self, machine: str) -> str:
        return self._meeting.name(machine) + (", this one" if machine == self._meeting.me else "")

    def _heed(self) -> None:
        if self._interrupted():
            raise InterruptedCheckError
        self._progress(self._doing, self._round.written if self._round else 0)


class _LockFile:
    """The file whose lock the machines try, opened by this one."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT)

    def take(self, seconds: float) -> Optional[bool]:
        """Return what `lock_file_now` returns, after waiting for the lock."""
        return wait_for(partial(lock_file_now, self._fd), seconds)

    def try_once(self) -> Optional[bool]:
        """Return what `lock_file_now` returns; close the file."""
        try:
            return lock_file_now(self._fd)
        finally:
            self.close()

    def close(self) -> None:
        unlock_file(self._fd)


def _books(now: Round) -> dict[str, Any]:
    """Return what this machine's writers did, for the others."""
    result = now.result
    return {
        "claims": [
            (number, claim.acknowledged, claim.killed, sorted(claim.reported))
            for number, claim in now.claims.items()
        ],
        "counts": {name: getattr(result, name) for name in ("written", "rotations", "handler_errors")},
        "slowest": result.slowest,
        "problems": result.problems,
    }


def _add(books: dict[str, Any], now: Round) -> None:
    result = now.result
    for number, acknowledged, killed, reported in books["claims"]:
        now.claims[number] = Claim(acknowledged, killed, set(reported))
    for name, count in books["counts"].items():
        setattr(result, name, getattr(result, name) + count)
    result.slowest = max(result.slowest, books["slowest"])
    result.problems.extend(books["problems"])
