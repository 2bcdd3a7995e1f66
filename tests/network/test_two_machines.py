"""Two machines write one rotating log on a share, and nothing is lost, doubled, torn or over the limit.

The same goes for a local disk under both machines, the control.
"""

from __future__ import annotations

from typing import Any

import pytest
from share import LOCAL, Share, backups, faults

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]

NFS = ("nfs42", "nfs40", "nfs3", "nfs42-noac", "nfs42-lookupcache=none")
SMB = ("smb", "smb-nolease")
LIMIT = 1500  # bytes of a file: 20 to 60 records


def on(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("share", kinds, indirect=True)


def write_together(share: Share, writers: int, records: int, **options: Any) -> dict[str, Any]:
    """Have all writers write at once, each second one in batches; returns the verdict."""
    team = share.writers(writers, maxBytes=LIMIT, on_rotated="told", **options)
    for turn in range(3):
        for number, writer in enumerate(team):
            writer.tell(f"{'batch' if number % 2 and turn else 'emit'} {records}")
        for writer in team:
            writer.answer()
    for writer in team:
        writer.end()
    return share.verdict()


@on(LOCAL, *NFS, *SMB)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"writers": 2, "backupCount": 500}, id="size-2"),
        pytest.param({"writers": 4, "backupCount": 500, "use_gzip": True}, id="size-4-gzip"),
        pytest.param(
            {"writers": 2, "handler": "timed", "when": "S", "use_gzip": True, "background_gzip": True},
            id="timed-2-background",
        ),
    ],
)
def test_nothing_is_lost_doubled_torn_or_over_the_limit(share: Share, options: dict[str, Any]) -> None:
    """Both handlers, one record and many at a time, with and without compression; each backup is told of once."""
    verdict = write_together(share, records=20, **options)

    assert faults(verdict, LIMIT) == {}
    assert verdict["acknowledged"] == options["writers"] * 60
    assert sum(verdict["told"].values()) == len(backups(verdict)) > 2
