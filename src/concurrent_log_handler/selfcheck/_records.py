"""What the self-check's records look like, and what a writer claims of them.

A record names its writer and its number and carries a checksum: it can be made again, and told from a
fragment of itself.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, field

# One to four bytes per character; a limit counted in characters would be passed.
_WORDS = (
    "order accepted, Bestellung über 12 € angenommen, заказ принят, παραγγελία δεκτή, "
    "ご注文を承りました, 订单已接受, 주문이 접수되었습니다, طلب مقبول, 🚚📦✅ "
)
_TEXT = _WORDS * 16
_BYTES_PER_CHARACTER = len(_WORDS.encode()) / len(_WORDS)
_USUAL = 150
HEADER = "#Fields: writer number text checksum"
HEADER_BYTES = len(HEADER) + 2 * len(os.linesep)  # its own line's end, and one that seals a torn record
_OVERHEAD = 24


def longest_text(max_bytes: int) -> int:
    """Return how many characters a record may have, so that several go into a file of *max_bytes*."""
    return max(1, min(1600, max_bytes // 32))


def average_bytes(longest: int) -> int:
    """Return about how many bytes a record has in the file."""
    return int(min(longest, _USUAL) / 2 * _BYTES_PER_CHARACTER) + longest // 32 + _OVERHEAD


def largest_bytes(longest: int) -> int:
    """Return what no record exceeds in the file."""
    return max(len(_TEXT[start : start + longest].encode()) for start in range(len(_WORDS))) + 2 * _OVERHEAD


def record_text(writer: int, number: int, longest: int) -> str:
    """Return the record, always the same: varied, multi-byte and checksummed."""
    mixed = number * 7919 + writer * 104729
    # Now and then one of several pages: only such a write can be cut in half by a kill.
    length = longest if number % 61 == 0 else mixed % min(longest, _USUAL) + 1
    start = mixed % len(_WORDS)
    body = f"{writer} {number} {_TEXT[start : start + length]}"
    return f"{body} {zlib.crc32(body.encode()):08x}"


def parse(line: bytes) -> tuple[int, int] | None:
    """Return (writer, number) of a whole record, None for anything else."""
    body, _, checksum = line.rpartition(b" ")
    try:
        if len(checksum) != 8 or int(checksum, 16) != zlib.crc32(body):
            return None
        writer, number, _text = body.split(b" ", 2)
        return int(writer), int(number)
    except ValueError:
        return None


@dataclass
class Claim:
    """
    What one writer is known to have written.

    Attributes:
        acknowledged: The logging call returned for the records 1 to this one.
        killed: It was ended inside a call: the next record may be there, in part, or not at all.
        reported: Numbers for which the handler called `handleError`.
    """

    acknowledged: int = 0
    killed: bool = False
    reported: set[int] = field(default_factory=set)
