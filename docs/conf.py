"""How the site is built: offline, with warnings as errors, from the installed package's docstrings."""

from __future__ import annotations

from importlib import metadata
from typing import Any

project = "concurrent-log-handler"
author = "the concurrent-log-handler authors"
copyright = author
version = release = metadata.version(project)

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"{project} {release}"
html_show_sourcelink = False
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Docstrings put names in single backticks.
default_role = "code"
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"  # the column is too narrow for a class before each method
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False


def _keep_backslashes(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:  # noqa: ARG001
    """Docstrings mean backslashes as they stand; reStructuredText would take them for escapes."""
    lines[:] = [line.replace("\\", "\\\\") for line in lines]


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _keep_backslashes, priority=400)
