"""Names and shift plans, tested with strings; no file is touched."""

from __future__ import annotations

from typing import Collection, Optional

from hypothesis import given
from hypothesis import strategies as st

from concurrent_log_handler._backups._chains import Move, plan_shift
from concurrent_log_handler._record._rotation import nearly_full


def name(number: int) -> str:
    return f"app.log.{number}"


def moves(existing: Collection[str], backup_count: int) -> list[Move]:
    """Look at the names one after the other, up to the first that is free."""
    chain = {}
    for number in range(1, backup_count + 1):
        forms = tuple(suffix for suffix in ("", ".gz") if name(number) + suffix in existing)
        chain[name(number)] = forms
        if not forms:
            break
    return plan_shift(chain)


def plan(*existing: str, backup_count: int = 3) -> list[tuple[str, Optional[str]]]:
    return [(source, target) for source, target in moves(existing, backup_count)]


def test_nothing_moves_where_no_backup_is() -> None:
    assert plan() == []


def test_oldest_moves_first() -> None:
    """A kill between any two moves leaves a gap, never two files on one name."""
    assert plan("app.log.1", "app.log.2") == [("app.log.2", "app.log.3"), ("app.log.1", "app.log.2")]


def test_full_chain_loses_its_oldest_before_anything_moves() -> None:
    assert plan("app.log.1", "app.log.2", "app.log.3") == [
        ("app.log.3", None),
        ("app.log.2", "app.log.3"),
        ("app.log.1", "app.log.2"),
    ]


def test_what_lies_above_a_gap_stays() -> None:
    """A kill left the gap; closing it must not cost the oldest backup."""
    assert plan("app.log.1", "app.log.3") == [("app.log.1", "app.log.2")]


def test_number_one_free_moves_nothing() -> None:
    assert plan("app.log.2", "app.log.3") == []


def test_plain_and_gz_mix() -> None:
    assert plan("app.log.1", "app.log.2.gz") == [
        ("app.log.2.gz", "app.log.3.gz"),
        ("app.log.1", "app.log.2"),
    ]


def test_both_forms_of_one_number_move_together() -> None:
    assert plan("app.log.1", "app.log.1.gz") == [
        ("app.log.1", "app.log.2"),
        ("app.log.1.gz", "app.log.2.gz"),
    ]


def test_both_forms_of_the_oldest_expire_together() -> None:
    assert plan("app.log.1", "app.log.1.gz", backup_count=1) == [
        ("app.log.1", None),
        ("app.log.1.gz", None),
    ]


def test_numbers_above_the_count_are_not_ours() -> None:
    """A smaller backupCount than last time leaves the surplus alone, as in CPython."""
    assert plan("app.log.1", "app.log.2", backup_count=1) == [("app.log.1", None)]


@given(
    forms=st.lists(
        st.sampled_from([(), ("",), (".gz",)]),
        min_size=1,
        max_size=7,
    ),
    killed_after=st.integers(0, 20),
)
def test_kill_after_any_step_loses_at_most_the_oldest_and_the_next_plan_carries_on(
    forms: list[tuple[str, ...]], killed_after: int
) -> None:
    """Whatever chain is found and wherever the process dies, the order of age stays and only the last may go."""
    files: dict[str, tuple[int, str]] = {}
    for number, suffixes in enumerate(forms, 1):
        for suffix in suffixes:
            files[name(number) + suffix] = (number, suffix)
    before = dict(files)

    def carry_out(plan: list[Move]) -> None:
        for source, target in plan:
            if target is None:
                del files[source]
            else:
                assert target not in files, "a move would overwrite a backup"
                files[target] = files.pop(source)

    carry_out(moves(files, len(forms))[:killed_after])
    carry_out(moves(files, len(forms)))

    assert not any(name(1) + suffix in files for suffix in ("", ".gz"))
    full = all(forms)
    oldest = {file for file in before.values() if file[0] == len(forms)}
    assert set(before.values()) - set(files.values()) == (oldest if full else set())
    ages = [
        files[name(number) + suffix][0]
        for number in range(1, len(forms) + 1)
        for suffix in ("", ".gz")
        if name(number) + suffix in files
    ]
    assert ages == sorted(ages)
    for path, (_, suffix) in files.items():
        assert path.endswith(".gz") == (suffix == ".gz")


@given(st.integers(1, 10**12))
def test_files_are_looked_at_before_they_are_full(max_bytes: int) -> None:
    """The cheap test may only ever ask too early."""
    assert 0 <= nearly_full(max_bytes) <= max_bytes
