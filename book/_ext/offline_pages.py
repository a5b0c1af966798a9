"""Sphinx extension: pages that ask for nothing from outside.

jupyter-book always loads sphinx-thebe, whose scripts start live code through an online service. This book has no
such button, and without a network those scripts only log an error: they are dropped from every page.
"""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    context["script_files"] = [script for script in context["script_files"] if "thebe" not in source_of(script)]


def source_of(script: Any) -> str:
    """A script's address and, for an inline script, its text."""
    return f"{getattr(script, 'filename', script)} {getattr(script, 'attributes', {}).get('body', '')}"


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
