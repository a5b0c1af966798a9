"""The package's own source, shown in a chapter: the code that is displayed is the code that runs."""

import ast
import html
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from IPython.display import HTML, display
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

import wsl_core
from wsl_core.errors import UsageError

__all__ = ["source", "source_html"]

# Token classes of pygments, with a colour for light pages and one for dark pages. Each has a contrast of 4.5 at least.
_TOKENS = {
    ".k,.kn,.kc,.ow": ("#8250a8", "#d2a8ff"),
    ".s,.s1,.s2,.sd,.sa,.si,.se,.sr": ("#0a6640", "#7ee2a8"),
    ".c,.c1,.ch": ("#5c6370", "#a0a8b4"),
    ".mi,.mf,.mh": ("#9a4a00", "#ffb366"),
    ".nf,.nc,.fm": ("#0055a4", "#79c0ff"),
    ".nd,.nb,.bp": ("#a8324a", "#ff9ba8"),
}
# The book, JupyterLab and Colab each say in their own way that a page is dark.
_DARK_PAGES = ('html[data-theme="dark"]', 'body[data-jp-theme-light="false"]', 'html[theme="dark"]')


def source(obj: Callable | type | ModuleType, docstring: bool = True) -> None:
    """Display the source of a function, method, class or module of this package, with its file and line numbers.

    Args:
        obj: what to show.
        docstring: False leaves out the docstrings, where the chapter's text says the same.

    Raises:
        UsageError: ``obj`` is not written in Python, or does not belong to this package.
    """
    display(HTML(source_html(obj, docstring)))


def source_html(obj: Callable | type | ModuleType, docstring: bool = True) -> str:
    """The HTML that :func:`source` displays.

    >>> from wsl_core.ops import resize_maps
    >>> "wsl_core/ops.py, lines " in source_html(resize_maps)
    True
    """
    try:
        unwrapped = inspect.unwrap(obj.fget if isinstance(obj, property) else obj)
        lines, first = inspect.getsourcelines(unwrapped)
        path = Path(inspect.getsourcefile(unwrapped) or "").resolve()
        name = Path("wsl_core") / path.relative_to(Path(wsl_core.__file__).resolve().parent)
    except (TypeError, OSError, ValueError) as error:
        raise UsageError(
            f"obj is {obj!r}, whose source is not found in wsl_core; expected a function, class or module of it."
        ) from error
    code = textwrap.dedent("".join(lines)).rstrip()
    if not docstring:
        code = _without_docstrings(code)
    body = highlight(code, PythonLexer(), HtmlFormatter(nowrap=True))
    first = max(first, 1)  # a module begins at line 0
    where = f"{name.as_posix()}, lines {first} to {first + len(lines) - 1}"
    where += "" if docstring else ", docstrings left out"
    # tabindex: a long line scrolls, and the keyboard must be able to scroll it.
    return (
        f"{_STYLE}<figure class='wsl-source'><figcaption>{html.escape(where)}</figcaption>"
        f"<pre tabindex='0' role='region' aria-label='{html.escape(where)}'><code>{body}</code></pre></figure>"
    )


def _without_docstrings(code: str) -> str:
    """The code without the lines of its docstrings; everything else stays as it is written."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    dropped: set[int] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, documented) and len(node.body) > 1 and ast.get_docstring(node) is not None:
            dropped |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return "\n".join(line for number, line in enumerate(code.splitlines(), start=1) if number not in dropped)


def _rules(page: str, dark: bool) -> str:
    background, ink, edge = ("#1b2028", "#e6e6e6", "#3a4250") if dark else ("#f7f8fa", "#1f2328", "#d5d9e0")
    scope = f"{page} .wsl-source".strip()
    rules = [f"{scope} pre{{background:{background};color:{ink};border-color:{edge}}}"]
    for tokens, colors in _TOKENS.items():
        selectors = ",".join(f"{scope} {token}" for token in tokens.split(","))
        rules.append(f"{selectors}{{color:{colors[dark]}}}")
    return "".join(rules)


_LAYOUT = (
    ".wsl-source{margin:0.5em 0;padding:0}"
    ".wsl-source figcaption{color:inherit;opacity:1;font:400 0.85em monospace;text-align:left}"
    ".wsl-source pre{overflow-x:auto;margin:0.2em 0;padding:0.7em 1em;border:1px solid;border-radius:4px}"
    ".wsl-source pre{font-size:0.85em;line-height:1.45}"
    ".wsl-source code{background:none;color:inherit;white-space:pre}"
)
_STYLE = f"<style>{_LAYOUT}{_rules('', dark=False)}{''.join(_rules(page, dark=True) for page in _DARK_PAGES)}</style>"
