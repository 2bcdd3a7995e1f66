"""Text becomes bytes: per encoding, the mark, the width and what a whole record ends with."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concurrent_log_handler._record._format import TextFormat

ORDER = "le" if sys.byteorder == "little" else "be"


@pytest.mark.parametrize(
    ("encoding", "bom", "width", "codec"),
    [
        ("utf-8", b"", 1, "utf-8"),
        ("latin-1", b"", 1, "iso8859-1"),
        ("utf-8-sig", b"\xef\xbb\xbf", 1, "utf-8"),
        ("UTF_16", "".encode("utf-16"), 2, f"utf-16-{ORDER}"),
        ("utf-16-le", b"", 2, "utf-16-le"),
        ("utf-16-be", b"", 2, "utf-16-be"),
        ("utf-32", "".encode("utf-32"), 4, f"utf-32-{ORDER}"),
    ],
)
def test_encodings(encoding: str, bom: bytes, width: int, codec: str) -> None:
    text = TextFormat(encoding, "backslashreplace", "\n", "\n")

    assert (text.bom, text.width, text.codec) == (bom, width, codec)
    assert text.bom + text.encode("a\n") == "a\n".encode(encoding)


@pytest.mark.parametrize(
    ("newline", "terminator", "ends", "seal"),
    [
        ("\n", "\n", {b"\n"}, b"\n"),
        ("\r\n", "\n", {b"\r\n", b"\n"}, b"\r\n"),
        ("\n", "\0", {b"\0", b"\n"}, b"\0"),
        ("\n", "\n--\n", {b"\n--\n", b"\n"}, b"\n--\n"),
        ("\n", "", set(), b"\n"),
    ],
)
def test_ends_of_a_record(newline: str, terminator: str, ends: set[bytes], seal: bytes) -> None:
    """By its end a record that a dying writer left torn is told from a whole one."""
    text = TextFormat("utf-8", "strict", newline, terminator)

    assert set(text.ends) == ends
    assert text.seal == seal


def test_terminator_may_change() -> None:
    text = TextFormat("utf-16-le", "strict", "\n", "\n")

    text.set_terminator(";")

    assert set(text.ends) == {b";\0", b"\n\0"}
    assert text.seal == b";\0"


@given(
    st.text(),
    st.sampled_from(["utf-8", "utf-16", "utf-32", "utf-8-sig", "ascii", "latin-1", "cp1252", "gb18030"]),
)
def test_no_text_is_refused(text: str, encoding: str) -> None:
    """A record is never dropped for its characters."""
    form = TextFormat(encoding, "backslashreplace", "\n", "\n")

    decoded = (form.bom + form.encode(text)).decode(encoding)

    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        assert "\\" in decoded
    else:
        assert decoded == text


@given(st.text("ab\r\n", max_size=20), st.sampled_from(["\n", "\r\n", "\r"]))
def test_line_ends_are_what_open_would_write(text: str, newline: str) -> None:
    import io

    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, "utf-8", newline=newline)
    stream.write(text)
    stream.flush()

    assert TextFormat("utf-8", "strict", newline, "\n").encode(text) == buffer.getvalue()
