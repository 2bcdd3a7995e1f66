"""
Compares what the diaries of the writers say (see `writer.py`) with what lies on the share; prints a JSON object.

    judge.py DIRECTORY [HEADER]

Each file has to begin with the line HEADER, if one is given.  It runs on the server, on the disk that is exported, so
that no client's cache stands between it and the files.
"""

import gzip
import json
import os
import sys
import zlib
from collections import Counter

from process_helpers import parse

NAME = "app.log"


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read()
    try:
        return gzip.decompress(data) if path.endswith(".gz") else data
    except (OSError, EOFError, zlib.error) as error:
        return f"not gzip: {error}\n".encode()


def main(directory: str, header: str = "") -> None:
    ok, refused, told, trouble = set(), set(), Counter(), []
    for name in sorted(os.listdir("/acknowledged")):
        with open(f"/acknowledged/{name}") as file:
            for line in file:
                what, _, rest = line.rstrip("\n").partition(" ")
                if what == "ok":
                    ok.add((name, int(rest)))
                elif what == "refused":
                    number, _, why = rest.partition(" ")
                    refused.add((name, int(number)))
                    trouble.append(why)
                elif what == "told":
                    told[os.path.basename(rest)] += 1
                else:
                    trouble.append(rest)
    files = {
        name: content(os.path.join(directory, name))
        for name in sorted(os.listdir(directory))
        if name.startswith(NAME)
    }
    there: Counter = Counter()
    torn = []
    for name, data in files.items():
        text = data.decode("utf-8", "replace")
        if text and not text.endswith("\n"):
            torn.append(f"{name} ends in the middle of a line")
        lines = text.splitlines()
        if header and header != (lines.pop(0) if lines else header):
            torn.append(f"{name} does not begin with the header")
        for line in lines:
            key = parse(line)
            if key is None:
                torn.append(f"{name}: {line[:80]!r}")
            else:
                there[key] += 1
    live = files.get(NAME, b"")
    json.dump(
        {
            "acknowledged": len(ok),
            "lost": sorted(ok - set(there)),
            "refused": sorted(refused),
            "refused_but_written": sorted(refused & set(there)),
            "unknown": sorted(set(there) - ok - refused),
            "doubled": sorted(key for key, times in there.items() if times > 1),
            "torn": torn,
            "sizes": {name: len(data) for name, data in files.items()},
            "in_live_file": sorted(filter(None, map(parse, live.decode("utf-8", "replace").splitlines()))),
            "others": sorted(
                name
                for name in os.listdir(directory)
                if not name.startswith(NAME) and not name.endswith(".lock")
            ),
            "told": dict(told),
            "trouble": sorted(Counter(trouble).items()),
        },
        sys.stdout,
    )


main(*sys.argv[1:])
