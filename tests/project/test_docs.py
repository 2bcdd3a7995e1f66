"""Every snippet of the README and the documentation does what its page says.

A page gets one directory and its snippets run there in order, each as a program of its own, the
way a reader would run it.  What stands in a comment directly above a fence decides what happens:

    <!-- file: NAME -->         saved under that name, for the snippets that follow
    <!-- run -->                a shell command: must succeed
    <!-- background -->         a shell command: started, and stopped with SIGTERM at the end of the page
    <!-- continues -->          Python that goes on with the names of the Python snippet before
    <!-- setup: NAME -->        run by `.ci/run`, which builds a clean clone for it
    <!-- not run: REASON -->    shown only

On the benchmark page, shell commands are shown only: they measure for minutes.
Python without a comment is run; a `text` fence is output or a drawing; anything else fails the test.
Hidden checks (`invisible-code-block: python` in a comment) run between the snippets.
Ports 8000 to 8009 in a page stand for free ones; the page goes on when a server listens there.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from sybil import Document
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer, FencedCodeBlockLexer

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPET_SECONDS = 30.0

_MARK = re.compile(r"<!-- (?P<mark>[^\n]+?) -->\s*\Z")
_PORT = re.compile(r"\b800[0-9]\b")
_KINDS = ("file", "run", "background", "continues", "setup", "not run")
_SHELL = ("sh", "bash", "console")


class Snippet(NamedTuple):
    line: int
    language: str
    kind: str
    argument: str
    source: str


def snippets(path: Path) -> list[Snippet]:
    """The fences and hidden checks of a page, in their order; Sphinx directives are left out."""
    text = path.read_text(encoding="utf-8")
    shell_is_shown = path.name == "benchmarks.md"
    document = Document(text, str(path))
    found = []
    for region in FencedCodeBlockLexer(r"[^\n]*")(document):
        language = region.lexemes["language"].strip()
        if language.startswith("{") and not language.startswith("{code"):
            continue
        mark = _MARK.search(text[: region.start])
        kind, _, argument = (mark["mark"] if mark else "").partition(": ")
        if shell_is_shown and not kind and language in _SHELL:
            kind = "not run"
        found.append((region.start, language, kind, argument, region.lexemes["source"]))
    for region in DirectiveInHTMLCommentLexer("invisible-code-block", "python")(document):
        found.append((region.start, "python", "", "", region.lexemes["source"]))
    return [Snippet(text.count("\n", 0, start) + 1, *rest) for start, *rest in sorted(found)]


class Page:
    """One page's directory, the servers that it started, and the port they listen on."""

    def __init__(self, path: Path, directory: Path) -> None:
        self.path = path
        self.directory = directory
        self.directory.mkdir()
        self.ports: dict[str, int] = defaultdict(_free_port)
        self.servers: list[tuple[Snippet, subprocess.Popen[bytes]]] = []
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH")])),
            "PYTHONWARNINGS": "error",
            "PYTHONUTF8": "1",
        }
        self.program = ""

    def run(self) -> None:
        try:
            for snippet in snippets(self.path):
                self._one(snippet)
        finally:
            self._stop_servers()

    def _one(self, snippet: Snippet) -> None:
        source = _PORT.sub(lambda match: str(self.ports[match[0]]), snippet.source)
        if snippet.kind == "file":
            target = self.directory / snippet.argument
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source, encoding="utf-8")
            if target.suffix == ".py":
                compile(source, str(target), "exec")
        elif snippet.kind in ("setup", "not run") or snippet.language == "text":
            return
        elif snippet.language in _SHELL and snippet.kind == "background":
            log = (self.directory / f"server-{len(self.servers)}.out").open("wb")
            with log:
                server = subprocess.Popen(
                    shlex.split(source),
                    cwd=self.directory,
                    env={**self.environment, "PYTHONWARNINGS": ""},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self.servers.append((snippet, server))
            for port in _PORT.findall(snippet.source):
                self._wait_for(server, self.ports[port], snippet)
        elif snippet.language in _SHELL and snippet.kind == "run":
            self._program(snippet, ["bash", "-euo", "pipefail", "-c", source])
        elif snippet.language == "python":
            self.program = self.program + source if snippet.kind == "continues" else source
            name = self.directory / f"snippet_line_{snippet.line}.py"
            name.write_text(self.program, encoding="utf-8")
            self._program(snippet, [sys.executable, name.name])
        else:
            pytest.fail(f"{self._place(snippet)}: a {snippet.language!r} snippet that nothing runs")

    def _program(self, snippet: Snippet, command: list[str]) -> None:
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SNIPPET_SECONDS,
            check=False,
        )
        quiet = not done.stderr or snippet.language != "python"
        if done.returncode or not quiet:
            said = f"{done.stdout}\n{done.stderr}\n{self._server_output()}"
            pytest.fail(f"{self._place(snippet)}: exit {done.returncode}\n{said}")

    def _wait_for(self, server: subprocess.Popen[bytes], port: int, snippet: Snippet) -> None:
        last_moment = time.monotonic() + SNIPPET_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if server.poll() is not None or time.monotonic() > last_moment:
                    pytest.fail(f"{self._place(snippet)}: nothing listens there\n{self._server_output()}")
                time.sleep(0.05)

    def _server_output(self) -> str:
        return "".join(
            each.read_text(errors="replace") for each in sorted(self.directory.glob("server-*.out"))
        )

    def _stop_servers(self) -> None:
        for _, server in self.servers:
            server.terminate()
        for snippet, server in self.servers:
            killer = threading.Timer(SNIPPET_SECONDS, os.killpg, (server.pid, signal.SIGKILL))
            killer.start()
            status = server.wait()
            killer.cancel()
            assert status != -signal.SIGKILL, f"{self._place(snippet)}: did not stop"

    def _place(self, snippet: Snippet) -> str:
        return f"{self.path.relative_to(ROOT)}:{snippet.line}"


def _with_speed(path: Path) -> object:
    slow = "<!-- background -->\n```sh" in path.read_text(encoding="utf-8")
    return pytest.param(path, id=str(path.relative_to(ROOT)), marks=[pytest.mark.slow] if slow else [])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("path", [_with_speed(each) for each in PAGES])
def test_snippets(path: Path, tmp_path: Path) -> None:
    """What a reader copies works, without a warning and without a word on stderr."""
    Page(path, tmp_path / "page").run()


@pytest.mark.parametrize("path", PAGES, ids=[str(each.relative_to(ROOT)) for each in PAGES])
def test_every_snippet_is_run_or_says_why_not(path: Path) -> None:
    """A fence that no rule covers would be documentation that nobody checks."""
    for snippet in snippets(path):
        assert snippet.kind in ("", *_KINDS), f"{path.name}:{snippet.line}: unknown mark {snippet.kind!r}"
        assert snippet.language, f"{path.name}:{snippet.line}: a fence needs a language"
        assert snippet.kind or snippet.language in ("python", "text"), f"{path.name}:{snippet.line}: not run"


def test_set_up_is_two_commands_in_the_readme() -> None:
    """`.ci/run` reads them from there, so what is tested is what readers copy."""
    set_up = [each for each in snippets(ROOT / "README.md") if each.kind == "setup"]

    assert [each.argument for each in set_up] == ["self-check", "tests"]
    assert all(each.source.strip().count("\n") == 0 for each in set_up)


def test_promises_name_tests_that_exist() -> None:
    """The guarantees page names the test behind each promise; a renamed test must not leave a dead name."""
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")

    named = set(re.findall(r"`(test_\w+)`", page))
    existing = {name for file in (ROOT / "tests").rglob("*.py") for name in _test_names(file)}

    assert named, "the page names no test at all"
    assert named <= existing, f"no such test: {sorted(named - existing)}"


def _test_names(file: Path) -> Iterator[str]:
    yield file.stem
    yield from re.findall(r"^\s*(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
