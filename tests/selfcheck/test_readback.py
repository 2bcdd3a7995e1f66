"""The self-check's reading back: what it counts as lost, doubled, torn, expired or a fragment."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from concurrent_log_handler.selfcheck._readback import Audit, Findings, Limits, chain_of
from concurrent_log_handler.selfcheck._records import Claim, largest_bytes, longest_text, parse, record_text

LONGEST = 60


def line(writer: int, number: int) -> bytes:
    return record_text(writer, number, LONGEST).encode() + b"\n"


def read_back(
    directory: Path, claims: dict[int, Claim], apart: tuple[Path, ...] = (), backup_count: int = 9
) -> Findings:
    audit = Audit(claims, Limits(10_000, backup_count, LONGEST))
    audit.read_chain(chain_of(str(directory / "app.log"), ".__app.lock"))
    audit.read_apart(map(str, apart))
    return audit.finish()


def wrong(found: Findings) -> dict[str, int]:
    names = ("lost", "doubled", "torn", "out_of_order", "expired", "fragments", "over_limit")
    return {name: getattr(found, name) for name in names if getattr(found, name)}


def test_record_is_told_from_every_part_of_itself() -> None:
    whole = record_text(7, 61, 1600).encode()

    assert parse(whole) == (7, 61)
    assert all(parse(whole[:end]) is None for end in range(len(whole)))
    assert all(parse(whole[start:]) is None for start in range(1, len(whole)))


@pytest.mark.parametrize("max_bytes", [1, 40, 1000, 131_072, 10**9])
def test_no_record_exceeds_what_is_promised(max_bytes: int) -> None:
    longest = longest_text(max_bytes)

    assert max(
        len(record_text(9, number, longest).encode()) + 1 for number in range(1, 2000)
    ) <= largest_bytes(longest)


def test_chain_is_read_oldest_first_whatever_is_packed(tmp_path: Path) -> None:
    (tmp_path / "app.log.10.gz").write_bytes(gzip.compress(line(1, 1)) + gzip.compress(line(1, 2)))
    (tmp_path / "app.log.9").write_bytes(line(1, 3))
    (tmp_path / "app.log.1").write_bytes(line(1, 4))
    (tmp_path / "app.log").write_bytes(line(1, 5))
    (tmp_path / ".__app.lock").touch()
    (tmp_path / ".__app.log.1f.part").touch()

    chain = chain_of(str(tmp_path / "app.log"), ".__app.lock")
    assert (chain.plain, chain.strays) == (["app.log.1", "app.log.9"], [".__app.log.1f.part"])
    found = read_back(tmp_path, {1: Claim(5)}, backup_count=10)
    assert (found.present, wrong(found), found.problems) == (5, {}, [])


def test_only_what_is_older_than_all_that_is_kept_can_have_expired(tmp_path: Path) -> None:
    """A full chain explains that the first records are gone, never a gap."""
    (tmp_path / "app.log.1").write_bytes(line(1, 3) + line(1, 4))
    (tmp_path / "app.log").write_bytes(line(1, 6))
    claims = {1: Claim(6), 2: Claim(2)}

    assert wrong(read_back(tmp_path, claims, backup_count=1)) == {"lost": 1, "expired": 4}
    assert wrong(read_back(tmp_path, claims, backup_count=2)) == {"lost": 5}


def test_half_of_a_gz_is_reported_and_its_rest_is_lost(tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(line(1, number) for number in range(1, 200)))
    (tmp_path / "app.log.1.gz").write_bytes(packed[: len(packed) // 2])

    found = read_back(tmp_path, {1: Claim(199)})
    assert found.lost > 50
    assert any("app.log.1.gz cannot be read to its end" in problem for problem in found.problems)


def test_backup_that_lies_there_plain_and_packed_is_doubled(tmp_path: Path) -> None:
    (tmp_path / "app.log.1").write_bytes(line(1, 1))
    (tmp_path / "app.log.1.gz").write_bytes(gzip.compress(line(1, 1)))

    assert wrong(read_back(tmp_path, {1: Claim(1)})) == {"doubled": 1}


def test_moved_files_are_read_too(tmp_path: Path) -> None:
    """Their place in the order is unknown, but each sequence by itself must be in order."""
    first, second = tmp_path / "000000.moved", tmp_path / "000001.moved"
    first.write_bytes(line(1, 2))
    second.write_bytes(line(1, 5) + line(1, 4))
    (tmp_path / "app.log").write_bytes(line(1, 1) + line(1, 3))

    assert wrong(read_back(tmp_path, {1: Claim(5)}, (first, second))) == {"out_of_order": 1}


@pytest.mark.parametrize(
    ("claim", "content", "expected"),
    [
        # killed inside its third call
        (Claim(2, killed=True), [line(1, 1), line(1, 2)], {}),
        (Claim(2, killed=True), [line(1, 1), line(1, 2), line(1, 3)], {}),
        (Claim(2, killed=True), [line(1, 1), line(1, 2), line(1, 3)[:-1]], {}),
        (
            Claim(2, killed=True),
            [line(1, 1), line(1, 2), line(1, 3)[:9], b"\n", line(2, 1)],
            {"fragments": 1},
        ),
        (Claim(2, killed=True), [line(1, 1), line(1, 2), line(1, 3)[:9]], {"fragments": 1}),
        # glued to a good record, there twice, of an acknowledged record, or of nobody's
        (Claim(2, killed=True), [line(1, 1), line(1, 2), line(1, 3)[:9], line(2, 1)], {"torn": 1, "lost": 1}),
        (
            Claim(2, killed=True),
            [line(1, 1), line(1, 2), *[line(1, 3)[:9], b"\n"] * 2],
            {"fragments": 1, "torn": 1},
        ),
        (Claim(2, killed=True), [line(1, 1), line(1, 2)[:9], b"\n"], {"torn": 1, "lost": 1}),
        (Claim(2), [line(1, 1), line(1, 2), line(1, 3)[:9], b"\n"], {"torn": 1}),
        (Claim(2), [line(1, 1), line(1, 2), line(1, 3)], {"torn": 1}),
        (Claim(2), [line(1, 1), line(1, 2), b"somebody else's\n"], {"torn": 1}),
        (Claim(2), [line(1, 1), line(1, 2)[:-1]], {"torn": 1, "lost": 1}),
        # the handler itself said that it could not write it
        (Claim(2, reported={2}), [line(1, 1)], {}),
    ],
)
def test_fragment_is_forgiven_only_to_a_killed_writer(
    tmp_path: Path, claim: Claim, content: list[bytes], expected: dict[str, int]
) -> None:
    (tmp_path / "app.log").write_bytes(b"".join(content))
    claims = {1: claim, 2: Claim(1 if any(line(2, 1) in each for each in content) else 0)}

    assert wrong(read_back(tmp_path, claims)) == expected


def test_empty_line_is_forgiven_where_locks_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_bytes(line(1, 1) + b"\n" + line(1, 2))
    chain = chain_of(str(tmp_path / "app.log"), ".__app.lock")
    strict = Audit({1: Claim(2)}, Limits(10_000, 9, LONGEST))
    lenient = Audit({1: Claim(2)}, Limits(10_000, 9, LONGEST, empty_lines=True))
    strict.read_chain(chain)
    lenient.read_chain(chain)

    assert wrong(strict.finish()) == {"torn": 1}
    assert wrong(lenient.finish()) == {}
    assert lenient.findings.empty_lines == 1


@pytest.mark.parametrize(
    ("content", "files"),
    [
        (b"", 0),
        (b"#head\n" + line(1, 1), 0),
        (b"#head\n", 0),
        (line(1, 1), 1),
        (b"#head\n#head\n" + line(1, 1), 1),
        (b"#head\n" + line(1, 1) + b"#head\n", 1),
        (line(1, 1) + b"#head\n", 1),
    ],
)
def test_each_file_has_one_header_at_its_beginning(tmp_path: Path, content: bytes, files: int) -> None:
    (tmp_path / "app.log").write_bytes(content)
    (tmp_path / "app.log.1.gz").write_bytes(gzip.compress(b"#head\n" + line(1, 2)))
    audit = Audit({1: Claim(2)}, Limits(10_000, 9, LONGEST, header=b"#head"))
    audit.read_chain(chain_of(str(tmp_path / "app.log"), ".__app.lock"))
    found = audit.finish()

    assert (found.without_one_header, found.torn) == (files, 0)
    assert found.wrong >= bool(files)


def test_single_long_record_may_pass_the_limit(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_bytes(line(1, 1))
    (tmp_path / "app.log.1").write_bytes(line(1, 1) + line(1, 2))
    audit = Audit({}, Limits(10, 9, LONGEST))
    audit.read_chain(chain_of(str(tmp_path / "app.log"), ".__app.lock"))

    assert audit.finish().over_limit == 1
