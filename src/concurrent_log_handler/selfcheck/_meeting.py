"""How machines find each other through a directory that all of them share, and wait for each other there.

Each machine has a random id, since host names and clocks may be alike or wrong, and writes files of its own only.
What it says is a new file each time, `ID-NUMBER`: written under another name, forced to the server, then renamed and
never changed, so that no cache shows an old or half a message.  A machine whose number grows is alive.  What
a machine says holds all that it said before.

Whatever happens, the last to leave removes the directory, and what dead machines left in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import time
from typing import Any, Callable

from ._round import remove

_DIRECTORY = "log-self-check-machines"
_MESSAGE = re.compile(r"([0-9a-f]{16})-(\d+)")
_BEAT = 1.0  # seconds between two messages, if there is nothing to say
_LOOK = 0.2  # seconds between two looks: each asks the server
_STILL = 10.0  # seconds without a message after which the files of a machine may be removed
_KEPT = 5  # messages of each machine
_LINGER = 30.0  # seconds to wait at most for the others to leave

Heed = Callable[[], None]


class MeetingError(Exception):
    """The machines did not come, or did not stay, together; *status* is the exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class _Peer:
    """Another machine, as its messages show it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.says: dict[str, Any] = {}
        self.moved = False
        self.absent = False
        self.silent = 0.0

    @property
    def here(self) -> bool:
        """It is known to be alive and has not left."""
        return self.moved and bool(self.says) and not self.removable

    @property
    def removable(self) -> bool:
        return self.absent or self.silent >= _STILL or bool(self.says and self.says["left"])


class Meeting:
    """
    One machine's part in a meeting.

    Contract: `find_others` comes first, then any number of `gather`, with `attend` called often in between, and
    `leave` at last, in any case.  *heed* is called all the time and may raise.

    Args:
        share: The directory that the machines share; the meeting makes one of its own in it.
        options: What all must have been asked for alike, by the names of options.
        patience: Seconds without a message after which a machine counts as dead.
        heed: Called all the time; may raise.

    Attributes:
        directory: Where the machines of this meeting may put files; removed by the last to leave.
        members: The ids of its machines, the same for all.
        me: The id of this one.
    """

    def __init__(self, share: str, options: dict[str, Any], patience: float, heed: Heed) -> None:
        self.me = secrets.token_hex(8)
        self.members: list[str] = []
        self._place = os.path.join(share, _DIRECTORY)
        self._options = options
        self._patience = patience
        self._heed = heed
        self._peers: dict[str, _Peer] = {}
        self._number = 0
        self._said = self._looked = float("-inf")
        self._mine: dict[str, Any] = {
            "host": socket.gethostname(),
            "options": options,
            "run": "",
            "accepted": 0,
            "invitation": {"number": 0, "machines": []},
            "steps": {},
            "left": "",
        }

    @property
    def directory(self) -> str:
        return os.path.join(self._place, f"{self._mine['run']}-run")

    def name(self, machine: str) -> str:
        """Return what to call the *machine*, for people."""
        host = self._mine["host"] if machine == self.me else self._peers[machine].says["host"]
        return f"machine {self.members.index(machine) + 1} ({host})"

    # -- finding each other ------------------------------------------------------

    def find_others(self, seconds: float) -> None:
        """
        Return when the machines of this meeting are known to all of them.

        The smallest id of those that wait invites as many as are needed; each accepts one invitation, and when all
        have, they are the members.

        Raises:
            MeetingError: They did not come within *seconds*, or were asked for something else.
            OSError: The directory cannot be used.
        """
        wanted = int(self._options["--machines"])
        until = time.monotonic() + seconds
        self._say()
        while not self.members or not all(map(self._has_joined, self.members)):
            if time.monotonic() > until:
                raise MeetingError(self._nobody(wanted, seconds))
            self._pause()
            if not self.members:
                here = {i: peer for i, peer in self._peers.items() if peer.here and _wants(peer, wanted)}
                self._agree(here, wanted)
        os.makedirs(self.directory, exist_ok=True)
        for machine in self.members:
            theirs = self._options if machine == self.me else self._peers[machine].says["options"]
            for option, mine in self._options.items():
                if theirs.get(option) != mine:
                    there, ours = ("none" if each is None else each for each in (theirs.get(option), mine))
                    msg = (
                        f"{self.name(machine)} was given other options: {option} {there} there, {ours} here; "
                        "give the same command on each machine"
                    )
                    raise MeetingError(msg, 2)

    def _agree(self, here: dict[str, _Peer], wanted: int) -> None:
        run, mine = self._mine["run"], self._mine["invitation"]
        if run:
            host = self._peers[run]
            stands = host.says["invitation"]["number"] == self._mine["accepted"]
            if stands and host.says["run"] == run:
                self.members = host.says["invitation"][
                    "machines"
                ]  # also if it has left since: then that is known
            elif not stands or not host.here:
                self._say(run="")
            return
        if mine["machines"] and all(
            i == self.me or (i in here and _accepts(here[i], self.me, mine["number"]))
            for i in mine["machines"]
        ):
            self._say(run=self.me)
            self.members = mine["machines"]
            return
        free = sorted([self.me, *(i for i, peer in here.items() if peer.says["run"] in ("", self.me))])
        machines = free[:wanted] if len(free) >= wanted and free[0] == self.me else []
        if machines != mine["machines"]:
            # A number of its own: what another machine answered to an earlier one may be read only now.
            self._say(invitation={"number": mine["number"] + 1, "machines": machines})
        hosts = [
            i
            for i, peer in here.items()
            if self.me in peer.says["invitation"]["machines"] and not peer.says["run"]
        ]
        if hosts and not machines:
            self._say(run=min(hosts), accepted=here[min(hosts)].says["invitation"]["number"])

    def _has_joined(self, machine: str) -> bool:
        peer = self._peers.get(machine)
        return machine == self.me or (peer is not None and self._with_me(peer))

    def _nobody(self, wanted: int, seconds: float) -> str:
        here = [peer for peer in self._peers.values() if peer.here]
        others = "the other machine has" if wanted == 2 else f"the {wanted - 1} other machines have"
        text = f"{others} not come within {seconds:g} s; give the same command on each machine, at about the same time"
        for peer in here:
            if not _wants(peer, wanted):
                text += f" ({peer.says['host']} was given --machines {peer.says['options']['--machines']})"
        return text

    # -- being together ----------------------------------------------------------

    def gather(self, step: str, mine: Any = None) -> dict[str, Any]:
        """
        Say that this machine is at *step*; return what each said with it when all are.

        Raises:
            MeetingError: A machine has left, or is not heard of any more.
        """
        self._say(steps={**self._mine["steps"], step: mine})
        while True:
            said = {each: self._peers[each].says["steps"] for each in self.members if each != self.me}
            said[self.me] = self._mine["steps"]
            if all(step in steps for steps in said.values()):
                return {each: said[each][step] for each in self.members}
            self._stay()
            self._pause()

    def attend(self) -> None:
        """Let the others know that this machine is alive; raises as `gather` does."""
        self._heed()
        if self._look():
            self._stay()

    def _stay(self) -> None:
        for each in self.members:
            if each == self.me:
                continue
            peer = self._peers[each]
            if peer.says["left"] or not self._with_me(peer):
                msg = f"{self.name(each)} has left: {peer.says['left'] or 'it heard nothing from the first'}"
                raise MeetingError(msg)
            if peer.silent > self._patience:
                msg = f"{self.name(each)} has not been heard of for {self._patience:g} s"
                raise MeetingError(msg)

    def leave(self, reason: str) -> None:
        """Tell the others why; remove what nobody needs any more.  Raises nothing."""
        with contextlib.suppress(OSError):
            if os.path.isdir(self._place):
                self._say(left=reason)
        self._mine["left"] = reason
        until = time.monotonic() + _LINGER
        while any(
            not peer.removable and (not peer.moved or self._with_me(peer)) for peer in self._peers.values()
        ):
            if time.monotonic() > until or not os.path.isdir(self._place):
                break
            time.sleep(_LOOK)
            self._look()
        with contextlib.suppress(OSError):
            self._clean_up()

    def _with_me(self, peer: _Peer) -> bool:
        return bool(peer.says.get("run", "") == self._mine["run"] != "")

    def _clean_up(self) -> None:
        names = os.listdir(self._place)
        gone = {self.me, *(i for i, peer in self._peers.items() if peer.removable)}
        stay = {match[1] for match in map(_MESSAGE.fullmatch, names) if match} - gone
        in_use = stay | {self._peers[i].says.get("run", "") for i in stay & self._peers.keys()}
        # The others of its run may not have read yet why one has left.
        stay |= {i for i, peer in self._peers.items() if peer.says.get("run", "") in in_use - {""}}
        for name in names:
            path, (owner, _, what) = os.path.join(self._place, name), name.partition("-")
            if what == "run" and owner not in in_use:
                remove(path)
            elif what != "run" and owner not in stay and re.fullmatch("[0-9a-f]{16}", owner):
                with contextlib.suppress(OSError):
                    os.unlink(path)
        os.rmdir(self._place)

    # -- messages ----------------------------------------------------------------

    def _pause(self) -> None:
        time.sleep(_LOOK)
        self._heed()
        self._look()

    def _say(self, **news: Any) -> None:
        self._mine.update(news)
        self._number += 1
        part = os.path.join(self._place, f"{self.me}-part")
        for attempt in (1, 2, 3):
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._place)
            try:
                with open(part, "w", encoding="utf-8") as file:
                    json.dump(self._mine, file)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(part, self._message(self._number))
                break
            except OSError:  # somebody has just left, and removed the directory
                if attempt == 3:
                    raise
                time.sleep(_LOOK)
        self._said = time.monotonic()
        # Somebody may be about to read the last ones, and SMB clients keep what they have read open for a second.
        with contextlib.suppress(OSError):
            os.unlink(self._message(self._number - _KEPT))

    def _message(self, number: int) -> str:
        return os.path.join(self._place, f"{self.me}-{number}")

    def _look(self) -> bool:
        """Read what is new, if the last look was not just now."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return False
        # A server that did not answer for a minute has held up all of us.
        passed, self._looked = min(now - self._looked, 2 * _BEAT), now
        if now - self._said >= _BEAT and not self._mine["left"]:
            self._say()
        for peer in self._peers.values():
            peer.silent += passed
        try:
            newest = self._newest()
        except OSError:  # such as ESTALE for a moment
            return True
        for machine, peer in self._peers.items():
            peer.absent = machine not in newest
        for machine, number in newest.items():
            if machine == self.me:
                continue
            peer = self._peers.setdefault(machine, _Peer(number))
            if number != peer.number or not peer.says:
                with contextlib.suppress(OSError, ValueError):
                    with open(os.path.join(self._place, f"{machine}-{number}"), encoding="utf-8") as file:
                        peer.says = json.load(file)
                    peer.moved = peer.moved or number != peer.number
                    peer.number, peer.silent = number, 0.0
        return True

    def _newest(self) -> dict[str, int]:
        """Return the number of each machine's last message; opening the directory asks the server, no cache."""
        matches = map(_MESSAGE.fullmatch, os.listdir(self._place))
        return dict(sorted((match[1], int(match[2])) for match in matches if match))


def _accepts(peer: _Peer, host: str, number: int) -> bool:
    return (peer.says["run"], peer.says["accepted"]) == (host, number)


def _wants(peer: _Peer, machines: int) -> bool:
    return bool(peer.says["options"].get("--machines") == machines)
