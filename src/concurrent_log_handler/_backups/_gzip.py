"""The format of a compressed backup: how ours is written, and what is known about one that lies there."""

from __future__ import annotations

import contextlib
import gzip
import os
import struct
import zlib
from typing import BinaryIO, Iterable, Iterator, Tuple

from concurrent_log_handler._files import open_to_read, remove

from . import GZ

CHUNK = 1 << 20  # zlib releases the GIL for the whole of it
_LEVEL = 6
# No time and no name in the header, which other programs leave out, too; but in the place that RFC 1952
# keeps for "extra" data a field of our own.  Readers pass over it.
_MARK = b"LH" + struct.pack("<H", 22) + b"concurrent-log-handler"
_HEADER = b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff" + struct.pack("<H", len(_MARK)) + _MARK


def pack(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield one gzip member with our mark; a file may have several, one behind the other."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    header, checksum, length = _HEADER, 0, 0
    for data in chunks:
        checksum = zlib.crc32(data, checksum)
        length += len(data)
        yield header + packer.compress(data)
        header = b""
    yield header + packer.flush() + struct.pack("<LL", checksum, length % 2**32)


def settle(name: str) -> Tuple[str, ...]:
    """
    Return what stays of the backup *name* and its `.gz`, which are both there: `""`, `GZ` or both.

    A compressor killed before its last step leaves both: the plain one goes, whoever made the `.gz`, or, if a
    late writer has added to it, the `.gz`, if it has our mark (version 1.0.0 made none).  CLH, switched from gzip to
    none, leaves two different backups under one number: both stay.
    """
    with contextlib.suppress(OSError), open(open_to_read(name), "rb") as plain:
        packed = _packed_size(name + GZ, plain)
        if packed == os.fstat(plain.fileno()).st_size:
            remove(name)
            return (GZ,)
        with open(open_to_read(name + GZ), "rb") as file:
            marked = file.read(len(_HEADER)) == _HEADER
        if packed > 0 and marked:
            remove(name + GZ)
            return ("",)
    return "", GZ


def has_read(packed: Iterable[str], fd: int, data: bytes, size: int) -> bool:
    """Tell whether one of the `.gz` files *packed* has what *fd* has open, up to *data* somewhere behind *size*."""
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        start = file.read().find(data, size)
        for path in packed:
            file.seek(0)
            read = _packed_size(path, file)
            if read > 0:
                return start != -1 and read >= start + len(data)
    return False


def _packed_size(path: str, plain: BinaryIO) -> int:
    """Return how many bytes the `.gz` at *path* has, if *plain* begins with them; otherwise -1."""
    size = 0
    try:
        with open(open_to_read(path), "rb") as file, gzip.GzipFile(fileobj=file) as packed:
            for data in iter(lambda: packed.read(CHUNK), b""):
                if data != plain.read(len(data)):
                    return -1
                size += len(data)
            return size
    except (OSError, EOFError, zlib.error):
        return -1
