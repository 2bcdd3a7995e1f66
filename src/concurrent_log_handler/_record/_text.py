"""Text becomes bytes: encoding, line ends, and what both mean for a reader who starts in the middle of a file."""

from __future__ import annotations

import codecs
import sys
from typing import Tuple

_ORDER = "le" if sys.byteorder == "little" else "be"
# Encodings that open a file with a byte order mark, and the same without one.
_WITHOUT_BOM = {"utf-8-sig": "utf-8", "utf-16": f"utf-16-{_ORDER}", "utf-32": f"utf-32-{_ORDER}"}


class TextFormat:
    r"""
    How a log's text stands in its file.

    Attributes:
        codec: The encoding of a single record, without a byte order mark.
        newline: What stands for `\n`.
        bom: Bytes that open a file, else empty.
        width: Bytes that one unit of the encoding takes; a torn record may end inside one.
        ends: What a whole record may end with; empty if a record has no recognisable end.
        longest_end: Bytes of the longest of them.
        seal: The bytes that end a torn record.
    """

    def __init__(self, encoding: str, errors: str, newline: str, terminator: str) -> None:
        name = codecs.lookup(encoding).name
        self.encoding = encoding
        self.codec = _WITHOUT_BOM.get(name, name)
        self.errors = errors
        self.newline = newline
        self.bom = "".encode(encoding)
        self.width = len("a".encode(self.codec))
        self.set_terminator(terminator)

    def set_terminator(self, terminator: str) -> None:
        end, line_feed = self.encode(terminator), "\n".encode(self.codec)
        self.ends: Tuple[bytes, ...] = (end, line_feed) if end else ()
        self.longest_end = max(len(end), len(line_feed))
        self.seal = end or self.encode("\n")

    def opening(self, header: str) -> bytes:
        """Return the bytes that open a file: the byte order mark, and *header*, which ends as a record does."""
        data = self.encode(header)
        if data and self.ends and not data.endswith(self.ends):
            data += self.ends[0]
        return self.bom + data

    def encode(self, text: str) -> bytes:
        if self.newline != "\n":
            text = text.replace("\n", self.newline)
        return text.encode(self.codec, self.errors)
