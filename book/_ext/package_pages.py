"""Sphinx extension: pages made from the package itself, so that they cannot fall behind it.

- the directive ``package-api`` documents every public module of ``wsl_core`` from its docstrings;
- the directive ``package-markdown`` inserts the Markdown that a function of the package returns;
- formulas between dollars in docstrings, the notation of the rest of the book, become formulas of autodoc;
- a name is documented once, where it is defined; a reference through another module that offers it leads there.
"""

import pkgutil
import re
from importlib import import_module
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

import wsl_core

FORMULA = re.compile(r"(?<![`\\$\w])\$([^$`]+)\$")


def public_modules() -> list[str]:
    """Every module of the package whose name has no underscore, in alphabetical order."""
    found = pkgutil.walk_packages(wsl_core.__path__, "wsl_core.")
    return sorted(module.name for module in found if not any(part.startswith("_") for part in module.name.split(".")))


class PackageApi(SphinxDirective):
    """One section for each module, filled by autodoc."""

    def run(self) -> list[nodes.Node]:
        return [self.section(module) for module in public_modules()]

    def section(self, module: str) -> nodes.section:
        section = nodes.section(ids=[nodes.make_id(module)])
        section += nodes.title(text=module)
        automodule = ["```{eval-rst}", f".. automodule:: {module}", "   :members:", "   :show-inheritance:", "```"]
        lines = StringList([*automodule, "", passed_on(module)], source=module)
        self.state.nested_parse(lines, self.content_offset, section)
        return section


def passed_on(module: str) -> str:
    """A line that names what a module offers from its submodules, with links."""
    offered = import_module(module)
    names = [name for name in getattr(offered, "__all__", ()) if is_passed_on(getattr(offered, name), module)]
    return "It also offers: " + ", ".join(f"{{py:obj}}`~{module}.{name}`" for name in names) + "." if names else ""


def is_passed_on(member: Any, module: str) -> bool:
    """Whether a member of a module is another module's of the package."""
    home = getattr(member, "__module__", None)
    return isinstance(home, str) and home.startswith("wsl_core") and home != module


class PackageMarkdown(SphinxDirective):
    """``{package-markdown} wsl_core.module:function``: what the function returns, parsed as Markdown."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module, function = self.arguments[0].split(":")
        markdown = getattr(import_module(module), function)()
        container = nodes.container()
        lines = StringList(markdown.splitlines(), source=self.arguments[0])
        self.state.nested_parse(lines, self.content_offset, container)
        return container.children


def skip_reexports(app: Sphinx, kind: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leave a name out of the modules that only pass it on."""
    return True if kind == "module" and is_passed_on(member, app.env.temp_data["autodoc:module"]) else None


def mark_formulas(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """``$F_k$`` becomes ``:math:`F_k```; autodoc reads reStructuredText, which would drop the backslashes."""
    lines[:] = FORMULA.sub(r":math:`\1`", "\n".join(lines)).split("\n")


def resolve_by_import(app: Sphinx, env: BuildEnvironment, node: nodes.Element, text: nodes.Node) -> nodes.Node | None:
    """Resolve a reference to a name of the package that the page does not list under this address.

    A class or function leads to its home; constants, type variables and the like stay plain text. A name that cannot
    be imported stays unresolved, and so fails the build.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("wsl_core."):
        return None
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError):
        return None
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", home, node, text) or text


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("package-api", PackageApi)
    app.add_directive("package-markdown", PackageMarkdown)
    app.connect("autodoc-skip-member", skip_reexports)
    app.connect("autodoc-process-docstring", mark_formulas)
    app.connect("missing-reference", resolve_by_import)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
