"""What a user installs: the names, the metadata and the two archives."""

from __future__ import annotations

import email.parser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import concurrent_log_handler

ROOT = Path(__file__).resolve().parents[2]
EPOCH = "1700000000"


def test_version_is_the_same_everywhere() -> None:
    """One number: metadata, module and changelog."""
    installed = metadata.version("concurrent-log-handler")

    assert concurrent_log_handler.__version__ == installed
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(installed)}\b", changes, re.MULTILINE)


@pytest.mark.parametrize(
    "statement",
    [
        "from concurrent_log_handler import __version__ as found",
        "from concurrent_log_handler.__version__ import __version__ as found",
        "import concurrent_log_handler.__version__; found = concurrent_log_handler.__version__",
        "import concurrent_log_handler.__version__ as module; found = module.__version__",
        "import importlib; found = importlib.import_module('concurrent_log_handler.__version__').__version__",
        "import concurrent_log_handler.handlers; found = concurrent_log_handler.__version__",
    ],
)
def test_version_is_found_as_in_clh_and_as_elsewhere(statement: str) -> None:
    """CLH 0.9 has a module `__version__`, most packages have an attribute: whichever is asked, it is the text."""
    number = metadata.version("concurrent-log-handler")
    ways = "found == number, str(found), f'{found}', '%s' % found, type(str(found)) is str, json.dumps(found)"
    program = f"import json; number = {number!r}; {statement}; print({ways})"

    expected = (True, number, number, number, True, f'"{number}"')
    assert run(sys.executable, "-W", "error", "-c", program).strip() == " ".join(map(str, expected))


def test_portalocker_is_the_only_dependency() -> None:
    """People install this into services: it brings one package, and leaves its newest versions open."""
    required = [each for each in metadata.requires("concurrent-log-handler") or [] if "extra ==" not in each]

    assert required == ["portalocker>=2.10"]


def test_package_is_typed() -> None:
    """Type checkers ignore the annotations of a package without this file."""
    assert (Path(concurrent_log_handler.__file__).parent / "py.typed").is_file()


def test_import_brings_only_what_is_declared() -> None:
    """The handler must not pull in the test extra, nor the frameworks that patterns knows."""
    loaded = run(sys.executable, "-c", "import concurrent_log_handler, sys; print(*sys.modules)").split()

    heavy = {"asyncio", "django", "fastapi", "flask", "pytest", "starlette", "structlog"}
    assert not heavy & {name.partition(".")[0] for name in loaded}


def test_top_level_is_tidy() -> None:
    """A newcomer sees what matters, and nothing else."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        found = run("git", "-C", str(ROOT), "ls-files").splitlines()
    else:
        found = [name for name in os.listdir(ROOT) if name != "PKG-INFO"]  # which an sdist has

    visible = {name.partition("/")[0] for name in found if not name.startswith(".")}
    assert visible <= {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "src", "tests", "docs"}


@pytest.mark.slow
def test_archives_are_reproducible_and_hold_what_they_should(tmp_path: Path) -> None:
    """Two builds are the same bytes; the wheel is the package and the licence, nothing else."""
    first, second = build(tmp_path / "first"), build(tmp_path / "second")

    assert [each.name for each in first] == [each.name for each in second]
    assert [each.read_bytes() for each in first] == [each.read_bytes() for each in second]
    sdist, wheel = first
    package = {str(file.relative_to(ROOT / "src")) for file in (ROOT / "src").rglob("*") if source(file)}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert {name for name in names if ".dist-info/" not in name} == package
    inside = {name.partition(".dist-info/")[2] for name in names - package}
    assert inside == {"METADATA", "RECORD", "WHEEL", "licenses/LICENSE"}
    fields = email.parser.Parser().parsestr(about)
    assert (fields["License-Expression"], fields["Requires-Python"]) == ("Apache-2.0", ">=3.9")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "tests/conftest.py", "docs/index.md"} <= inside
    assert not [name for name in inside if name.endswith((".pyc", ".log", ".lock"))]
    run(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist))


def source(file: Path) -> bool:
    return file.is_file() and "__pycache__" not in file.parts


def build(directory: Path) -> list[Path]:
    """Return sdist and wheel of one build; hatchling comes from this environment, so no network is needed."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(ROOT))
    return sorted(directory.iterdir(), key=lambda each: each.suffix)


def run(*command: str) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
