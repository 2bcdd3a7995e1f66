"""Two machines write one rotating log on a share, and nothing is lost, doubled, torn or over the limit.

The same goes for a local disk under both machines, the control.
"""

from __future__ import annotations

from typing import Any

import pytest
from share import LOCAL, Share, Verdict, Writer, backups, faults

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]

NFS = ("nfs42", "nfs40", "nfs3", "nfs42-noac", "nfs42-lookupcache=none")
SMB = ("smb", "smb-nolease")
LIMIT = 1500  # bytes of a file: 20 to 60 records


def on(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("share", kinds, indirect=True)


def in_turns_and_at_once(team: list[Writer], records: int) -> int:
    """Have all write at once and in turns, then again with some in batches; returns how many each wrote."""
    for command in ("emit", "batch"):
        for number, writer in enumerate(team):
            writer.tell(f"{command if number % 2 else 'emit'} {records}")
        for writer in team:
            writer.answer()
        for writer in team:
            writer.do(f"emit {records // 4}")
    return 2 * (records + records // 4)


def ended(share: Share, *team: Writer) -> Verdict:
    for writer in team:
        writer.end()
    return share.verdict()


def fill(share: Share, count: int, **options: Any) -> None:
    team = share.writers(count, maxBytes=LIMIT, on_rotated="told", **options)
    records = in_turns_and_at_once(team, 16)
    verdict = ended(share, *team)

    assert faults(verdict, LIMIT) == {}
    assert verdict["acknowledged"] == count * records
    assert sum(verdict["told"].values()) == len(backups(verdict)) > 0
    assert all(name.endswith(".gz") for name in backups(verdict) if "use_gzip" in options)


@on(LOCAL, "nfs42", "nfs3", *SMB)
def test_two_writers_fill_one_log(share: Share) -> None:
    """Nothing more than records and rotations: each backup is told of once."""
    fill(share, 2, backupCount=500)


@on(LOCAL, *NFS, *SMB)
def test_four_writers_fill_one_log_and_compress_it(share: Share) -> None:
    """Two on each machine, and one record at a time or many."""
    fill(share, 4, backupCount=500, use_gzip=True)


@on(LOCAL, *NFS, *SMB)
def test_two_writers_roll_by_one_clock(share: Share) -> None:
    """The time of the next rollover is shared through the lock file, which the other machine may have cached."""
    fill(share, 2, handler="timed", when="S", interval=2, use_gzip=True, background_gzip=True)


@on(LOCAL, "nfs42", "nfs3", "smb-nolease")
def test_a_machine_that_logs_now_and_then_finds_the_live_file(share: Share) -> None:
    """The other one rotates sixty times meanwhile; what is put into an old backup expires with it."""
    busy, rare = share.writers(2, maxBytes=400, backupCount=3)
    rare.do("emit 1")
    for number in range(1, 13):
        busy.do("batch 60")
        rare.do("emit 1")
        assert ["writer1", number] in share.verdict()["in_live_file"]
    verdict = ended(share, busy, rare)

    assert verdict["refused"] == verdict["torn"] == verdict["doubled"] == verdict["trouble"] == []


@on(LOCAL, "nfs42", "smb-nolease")
@pytest.mark.parametrize("handler", ["size", "timed"])
def test_what_stays_is_the_newest(share: Share, handler: str) -> None:
    """Both machines remove backups, by number and by size, and the same ones."""
    limits = {"size": {"backupCount": 4}, "timed": {"when": "h"}}[handler]
    team = share.writers(2, handler=handler, maxBytes=700, max_total_bytes=2000, use_gzip=False, **limits)
    in_turns_and_at_once(team, 24)
    team[0].do("roll")
    verdict = ended(share, *team)

    assert sum(verdict["sizes"].values()) <= 2000
    assert len(backups(verdict)) <= 4
    lost = {tuple(each) for each in verdict.pop("lost")}
    assert faults({**verdict, "lost": []}, 700) == {}
    for name in ("writer0", "writer1"):
        gone = sorted(number for writer, number in lost if writer == name)
        assert gone == list(range(len(gone))), "a newer one went before an older one"
    assert lost


@on(LOCAL, "nfs42", "smb")
def test_rollover_by_hand(share: Share) -> None:
    """Each call makes a backup of what there is, whichever machine wrote it."""
    team = share.writers(2, maxBytes=100_000, backupCount=50, on_rotated="told")
    for turn in range(4):
        for writer in team:
            writer.do("emit 3")
        team[turn % 2].do("roll")
        team[turn % 2].do("roll")  # of an empty file
    for writer in team:
        writer.tell("emit 1").tell("roll")
    for writer in team:
        writer.answer(), writer.answer()
    verdict = ended(share, *team)

    assert faults(verdict) == {}
    assert verdict["acknowledged"] == 26
    assert sum(verdict["told"].values()) == len(backups(verdict))


@on(LOCAL, "nfs42", "smb")
@pytest.mark.parametrize("handler", ["size", "timed"])
def test_each_file_begins_with_the_header_and_outlasts_a_power_cut(share: Share, handler: str) -> None:
    """Whichever machine begins it; and `fsync` has the server put it on its disk, names and all."""
    header = "#writer,number,filler,checksum"
    team = share.writers(
        2, handler=handler, maxBytes=LIMIT, backupCount=500, use_gzip=True, header=header, fsync=True
    )
    records = in_turns_and_at_once(team, 16)
    below = share.cut_power()
    verdict = share.verdict(header, below)
    for writer in team:
        writer.end()

    assert faults(verdict, LIMIT) == {}
    assert verdict["acknowledged"] == 2 * records
    assert len(backups(verdict)) > 1
    assert faults(share.verdict(header), LIMIT) == {}


@on(LOCAL)
def test_a_power_cut_takes_what_nobody_has_synced(share: Share) -> None:
    """So the test before this one can fail."""
    share.server("sync")  # the directory itself
    team = share.writers(2, maxBytes=LIMIT, backupCount=500)
    in_turns_and_at_once(team, 16)
    verdict = share.verdict(below=share.cut_power())
    for writer in team:
        writer.end()

    assert verdict["lost"]
    assert faults(share.verdict(), LIMIT) == {}


@on(LOCAL, "nfs42", "smb")
def test_mode_w_takes_away_what_was_there_and_nothing_else(share: Share) -> None:
    """Whoever writes first empties the file; the other machine may have seen it before that."""
    share.server("echo old >app.log")
    first, second = share.writers(2, mode="w")
    share.machine(2, "cat app.log")
    first.do("emit 5")
    second.do("emit 5")
    for writer in (first, second):
        writer.tell("emit 20")
    for writer in (first, second):
        writer.answer()
    verdict = ended(share, first, second)

    assert faults(verdict) == {}
    assert verdict["acknowledged"] == 50


@on(LOCAL, "nfs42", "nfs3", "smb")
def test_the_open_file_is_deleted_by_the_other_machine(share: Share) -> None:
    """NFS lets a machine write to a file that is deleted, and even says that it has a link; so may SMB."""
    first, second = share.writers(2, maxBytes=100_000, backupCount=3)
    for turn in range(8):
        if turn:
            share.machine(1 + turn % 2, "rm app.log")
        first.do("emit 4")
        second.do("emit 4")
        numbers = range(4 * turn, 4 * turn + 4)
        assert share.verdict()["in_live_file"] == [
            [f"writer{name}", number] for name in (0, 1) for number in numbers
        ]
    verdict = ended(share, first, second)

    assert verdict["refused"] == verdict["torn"] == verdict["trouble"] == []


@on(LOCAL, "nfs42", "smb")
def test_a_full_disk_is_reported(share: Share) -> None:
    """A record that the server did not take goes to `handleError`, though `write` had taken it."""
    team = share.writers(2, maxBytes=100_000, backupCount=3)
    for writer in team:
        writer.do("emit 5")
    share.server(
        "free=$(df --output=avail -k . | tail -n 1); fallocate -l $((free - 8))K ../filler"
        " || dd if=/dev/zero of=../filler bs=1M 2>/dev/null || true; sync"
    )
    try:
        for _ in range(2):
            for writer in team:
                writer.tell("batch 150").tell("emit 40")
            for writer in team:
                writer.answer(), writer.answer()
    finally:
        share.server("rm -f ../filler; sync")
    for writer in team:
        writer.do("emit 10")
    verdict = ended(share, *team)

    last = [["writer0", number] for number in range(385, 395)]
    assert [each for each in verdict["in_live_file"] if each[0] == "writer0" and each[1] >= 385] == last
    assert verdict["refused"], "the disk was not full"
    assert verdict["lost"] == verdict["torn"] == verdict["doubled"] == []


@on(LOCAL, "nfs42", "smb")
def test_a_writer_is_killed(share: Share) -> None:
    """What it had acknowledged is there, and the other machine goes on at once."""
    other = share.writers(1, maxBytes=LIMIT, backupCount=500, use_gzip=True)[0]
    for number in range(2):
        victim = share.start(2, f"victim{number}", maxBytes=LIMIT, backupCount=500, use_gzip=True)
        pid = victim.wait_until_ready().ready["pid"]
        victim.do("emit 10")
        victim.tell("emit 100000")
        other.do("emit 25")
        share.server(f"kill -KILL {pid}")
        other.do("emit 25")
    other.do("roll")  # what the victims left is taken up
    verdict = ended(share, other)

    in_flight = verdict.pop("unknown")
    assert len(in_flight) <= 2
    assert faults({**verdict, "unknown": []}, LIMIT) == {}
    assert all(name.endswith(".gz") for name in backups(verdict))


@on("nfs42", "smb")
def test_the_holder_of_the_lock_is_stopped(share: Share) -> None:
    """Four others report what they cannot write, and do not write it: an append without the lock destroys others'."""
    holder = share.start(1, "holder", maxBytes=1000, backupCount=50, stop_at=["os.rename", "app.log"])
    pid = holder.wait_until_ready().ready["pid"]
    team = share.writers(4, maxBytes=LIMIT, backupCount=500, lock_timeout=2.0)
    for writer in team:
        writer.do("emit 3")
    holder.tell("batch 40")
    assert "stopping" in holder.answer()
    for writer in team:
        writer.tell("emit 20 0.5")  # ten seconds
    for writer in team:
        writer.answer()
    share.server(f"kill -CONT {pid}")
    holder.answer()
    for writer in team:
        writer.do("emit 3")
    verdict = ended(share, holder, *team)

    assert verdict["refused"] == [[f"writer{name}", number] for name in range(4) for number in range(3, 23)]
    assert verdict["refused_but_written"] == []
    assert verdict["lost"] == verdict["torn"] == verdict["doubled"] == []


@on("smb")
def test_neighbours_open_and_close_all_the_time(share: Share) -> None:
    """Linux's client gives two processes of a machine one handle on the server, and each of them closes it."""
    team = share.writers(4, maxBytes=LIMIT, backupCount=900)
    for writer in team[:2]:
        writer.tell("emit 100")
    for _ in range(20):
        for guest in team[2:]:
            guest.tell("emit 1").tell("close")
        for guest in team[2:]:
            guest.answer()
            guest.answer()
    for writer in team[:2]:
        writer.answer()
    verdict = ended(share, *team)

    assert faults(verdict, LIMIT) == {}
    assert verdict["acknowledged"] == 2 * 100 + 2 * 20


@on("nfs42", "smb")
def test_a_neighbour_ends_while_another_process_has_the_lock(share: Share) -> None:
    """Linux's SMB client gives both one handle on the server; the other machine must not get in all the same."""
    holder = share.start(1, "holder", maxBytes=1000, backupCount=50, stop_at=["os.rename", "app.log"])
    pid = holder.wait_until_ready().ready["pid"]
    late = {"maxBytes": LIMIT, "backupCount": 500, "lock_timeout": 1.0}
    neighbour = share.start(1, "neighbour", **late).wait_until_ready()
    neighbour.do("emit 1")
    holder.tell("batch 40")
    assert "stopping" in holder.answer()
    neighbour.do("emit 1")
    neighbour.end()
    other = share.start(2, "other", **late).wait_until_ready()
    other.do("emit 2")
    share.server(f"kill -CONT {pid}")
    holder.answer()
    other.do("emit 3")
    verdict = ended(share, holder, other)

    assert verdict["refused"] == [["neighbour", 1], ["other", 0], ["other", 1]]
    assert verdict["lost"] == verdict["doubled"] == verdict["torn"] == verdict["refused_but_written"] == []


@on("nfs42", "nfs3", "smb")
def test_the_server_is_restarted(share: Share) -> None:
    """
    The kernel waits for it; every record is there or was reported, and then all goes on.

    A record that SMB has reported may be there, too: its lock is gone, so it is not cut off.
    """
    stop, start = ("pkill -x smbd", "smbd -D") if share.kind == "smb" else ("rpc.nfsd 0", "rpc.nfsd 8")
    team = share.writers(2, maxBytes=LIMIT, backupCount=500)
    for writer in team:
        writer.do("emit 5")
        writer.tell("emit 60 0.05")
    share.server(f"sleep 1; {stop}; sleep 2; {start}")
    for writer in team:
        writer.answer()
        writer.do("emit 5")
    verdict = ended(share, *team)

    assert verdict["lost"] == verdict["torn"] == verdict["doubled"] == []
    assert share.kind == "smb" or verdict["refused_but_written"] == []
    refused = {tuple(each) for each in verdict["refused"]}
    assert not refused & {(f"writer{name}", number) for name in (0, 1) for number in range(65, 70)}


@on("nfs42", "nfs40", "nfs3", "smb")
def test_a_cable_is_cut_in_the_middle_of_a_record(share: Share) -> None:
    """The server gives its lock to the others, or keeps it; what is sent late destroys none of theirs."""
    near, far = share.writers(2, maxBytes=100_000, backupCount=3)
    near.do("emit 5")
    far.do("emit 5")
    far.do("stop")
    far.tell("emit 5")
    assert "stopping" in far.answer()
    near.tell("emit 10 0.2")
    share.server(f"ip link set to2 down; kill -CONT {far.ready['pid']}; sleep 20; ip link set to2 up")
    for writer in (near, far):
        writer.answer()
        writer.do("emit 5")
    verdict = ended(share, near, far)

    assert verdict["lost"] == verdict["torn"] == verdict["doubled"] == verdict["refused_but_written"] == []
    assert verdict["refused"] in ([], [["writer1", 5]])


@on(LOCAL, "nfs42", "smb")
@pytest.mark.parametrize("machines", [(1, 1), (1, 2)], ids=["one-machine", "two-machines"])
def test_two_compressors_take_different_backups(share: Share, machines: tuple[int, int]) -> None:
    """One is stopped in the middle of its work; the other leaves that backup, its part file and its mark alone."""
    options = {"maxBytes": 1000, "backupCount": 50, "use_gzip": True, "on_rotated": "told"}
    slow = share.start(machines[0], "slow", stop_at=["os.utime", ""], **options)
    quick = share.start(machines[1], "quick", **options)
    pid = slow.wait_until_ready().ready["pid"]
    quick.wait_until_ready()
    slow.do("emit 2")
    slow.tell("batch 40")
    assert "stopping" in slow.answer()
    for _ in range(3):
        quick.do("batch 40")
    plain = [name for name in backups(share.verdict()) if not name.endswith(".gz")]
    share.server(f"kill -CONT {pid}")
    slow.answer()
    verdict = ended(share, slow, quick)

    assert len(plain) == 1, "that of the stopped process"
    assert faults(verdict, 1000) == {}
    assert all(name.endswith(".gz") for name in backups(verdict))
    assert sum(verdict["told"].values()) == len(backups(verdict))


@on(LOCAL, "nfs42", "smb")
@pytest.mark.parametrize("machines", [(1, 1), (1, 2)], ids=["one-machine", "two-machines"])
def test_a_backup_is_told_of_by_one(share: Share, machines: tuple[int, int]) -> None:
    """One is still in its callback; the other does not take its mark for that of a dead process."""
    options = {"maxBytes": 1000, "backupCount": 50, "on_rotated": "told"}
    slow = share.start(machines[0], "slow", hold_told=True, **options)
    quick = share.start(machines[1], "quick", **options)
    slow.wait_until_ready()
    quick.wait_until_ready()
    slow.tell("emit 60")
    assert "telling" in slow.answer()
    for _ in range(3):
        quick.do("batch 40")
    while "telling" in slow.tell("").answer():
        pass
    verdict = ended(share, slow, quick)

    assert faults(verdict, 1000) == {}
    assert sum(verdict["told"].values()) == len(backups(verdict))


@on("nfs42", "smb")
def test_a_lock_file_on_a_local_disk_warns(share: Share) -> None:
    """Machines do not see each other's lock there; beside the log they do."""
    elsewhere = share.start(1, "elsewhere", maxBytes=LIMIT, backupCount=3, lock_file_directory="/tmp")
    beside = share.start(1, "beside", maxBytes=LIMIT, backupCount=3)

    assert ["lock_file_directory" in each for each in elsewhere.wait_until_ready().ready["warnings"]] == [
        True
    ]
    assert beside.wait_until_ready().ready["warnings"] == []
