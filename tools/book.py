"""Build the book: execute each notebook once, then turn everything into HTML.

The source is copied to a staging folder, where papermill writes each executed notebook in its own place; jupyter-book
then builds without executing anything. An executed notebook is kept and found again while the notebook, the package,
the parameters and the installed versions stay the same.
"""

import argparse
import ast
import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
import yaml
from papermill.exceptions import PapermillExecutionError

import wsl_core

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("_config.yml", "_toc.yml", "assets", "book", "notebooks")
STAMP = ".built"  # inside the HTML: a hash of what it was made from
PAGE_BUDGET = 3_000_000  # bytes of a page and its images, compressed


class BuildError(Exception):
    """The book cannot be built; the message says which file is to blame."""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    wanted = {"scale": options.scale, "dataset": options.dataset, "root": options.root, "seed": options.seed}
    parameters = {name: value for name, value in wanted.items() if value is not None}
    try:
        build(options.source, options.work, options.out, parameters)
    except BuildError as error:
        say(f"NOT BUILT: {error}")
        return 1
    say("done. It needs no server and no network; open this address in a browser:")
    print((options.out / "index.html").resolve().as_uri())
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.book", description="Execute the notebooks, build the HTML.")
    parser.add_argument("--scale", default="book", choices=["smoke", "book", "paper"])
    parser.add_argument("--dataset", help="data set, for the notebooks that have this parameter")
    parser.add_argument("--root", type=os.path.abspath, help="folder of the data set")
    parser.add_argument("--seed", type=int, help="random seed")
    parser.add_argument("--source", type=Path, default=ROOT, help="folder of _config.yml and _toc.yml")
    parser.add_argument("--work", type=Path, default=ROOT / ".book", help="folder for staging and executed notebooks")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "html", help="folder that the HTML goes to")
    return parser.parse_args(arguments)


def build(source: Path, work: Path, out: Path, parameters: dict[str, Any]) -> None:
    """Build the book in ``source``; ``out`` is replaced only when everything succeeded.

    Raises:
        BuildError: a cell failed, the build gave a warning, or a page is too heavy.
    """
    stage = work / "stage"
    copy_sources(source, stage)
    if not (stage / "assets" / "offline").exists():
        load_from_cdn(stage / "_config.yml")
    for page in pages(stage):
        if page.suffix == ".md":
            page = to_notebook(page)
        name = page.relative_to(stage).with_suffix("").as_posix()
        shutil.copy(executed(page, parameters, work / "executed", cwd=(source / name).parent), page)
    stamp = digest(tree_digest(stage), *surroundings())
    if (out / STAMP).exists() and (out / STAMP).read_text() == stamp:
        say("nothing has changed since the last build")
        return
    html = render(stage, work)
    check_weights(html)
    (html / STAMP).write_text(stamp)
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(html, out)


def copy_sources(source: Path, stage: Path) -> None:
    shutil.rmtree(stage, ignore_errors=True)
    for name in SOURCES:
        if (source / name).is_dir():
            shutil.copytree(source / name, stage / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_*"))
        elif (source / name).exists():
            stage.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, stage / name)


def load_from_cdn(config_file: Path) -> None:
    """Without the offline assets, leave the addresses of MathJax and the widgets at their defaults."""
    say("assets/offline is missing: the pages will load MathJax and the widgets from a CDN (see `make assets`)")
    config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    settings = config["sphinx"]["config"]
    for name in ("mathjax_path", "nb_ipywidgets_js"):
        settings.pop(name, None)
    settings["html_js_files"] = ["shim.js"]
    config_file.write_text(yaml.safe_dump(config), encoding="utf-8")


def pages(stage: Path) -> list[Path]:
    """The pages of the table of contents that hold code: notebooks, and Markdown with a kernel in its header."""
    toc = yaml.safe_load((stage / "_toc.yml").read_text(encoding="utf-8"))
    documents = [stage / name for name in toc_files(toc)]
    notebooks = [path for document in documents if (path := document.with_name(document.name + ".ipynb")).exists()]
    texts = [path for document in documents if (path := document.with_name(document.name + ".md")).exists()]
    return notebooks + [text for text in texts if re.match(r"---\n(.*\n)*?kernelspec:", text.read_text("utf-8"))]


def toc_files(entry: Any) -> list[str]:
    """Every ``root`` and ``file`` of a table of contents, in reading order."""
    if isinstance(entry, list):
        return [name for item in entry for name in toc_files(item)]
    if not isinstance(entry, dict):
        return []
    own = [entry[key] for key in ("root", "file") if key in entry]
    return own + [name for key in ("parts", "chapters", "sections") for name in toc_files(entry.get(key))]


def to_notebook(page: Path) -> Path:
    """Turn a Markdown page with code cells into a notebook of the same name."""
    notebook = page.with_suffix(".ipynb")
    jupytext.write(jupytext.read(page), notebook)
    page.unlink()
    return notebook


def executed(notebook: Path, parameters: dict[str, Any], folder: Path, cwd: Path) -> Path:
    """The executed copy of a notebook: found in ``folder``, or made now with the working directory ``cwd``.

    Raises:
        BuildError: a cell failed; the message is the cell's.
    """
    changes = changed_parameters(notebook, parameters)
    target = folder / f"{notebook.stem}-{cache_key(notebook, changes)}.ipynb"
    if target.exists():
        say(f"{notebook.name}: found executed")
        return target
    say(" ".join([f"{notebook.name}: executing", *(f"{name}={value}" for name, value in changes.items())]))
    partial = folder / f"partial-{target.name}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            notebook, partial, changes, kernel_name="python3", language="python", cwd=cwd, stderr_file=sys.stderr
        )
    except PapermillExecutionError as error:
        raise BuildError(f"{notebook.name}: a cell failed; the notebook so far is {partial}\n{error}") from error
    os.replace(partial, target)
    return target


def changed_parameters(notebook: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    """Those parameters that the notebook has, and whose defaults differ: nothing needless is injected."""
    defaults = default_parameters(notebook)
    return {name: value for name, value in parameters.items() if name in defaults and defaults[name] != value}


def default_parameters(notebook: Path) -> dict[str, Any]:
    """What the cell with the tag "parameters" assigns."""
    cells = nbformat.read(notebook, as_version=4).cells
    sources = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    statements = [statement for source in sources for statement in ast.parse(source).body]
    assignments = [statement for statement in statements if isinstance(statement, ast.Assign)]
    return {assigned.targets[0].id: ast.literal_eval(assigned.value) for assigned in assignments}


def cache_key(notebook: Path, parameters: dict[str, Any]) -> str:
    """A hash of all that an execution depends on."""
    cells = [(cell.cell_type, cell.source, cell.metadata) for cell in nbformat.read(notebook, as_version=4).cells]
    return digest(cells, parameters, *surroundings())[:16]


def surroundings() -> tuple[Any, ...]:
    """What every page depends on: the package, the data folder, Python, and all installed versions."""
    versions = sorted(f"{package.name}=={package.version}" for package in importlib.metadata.distributions())
    return tree_digest(Path(wsl_core.__file__).parent), os.environ.get("WSL_DATA"), sys.version, versions


def tree_digest(folder: Path) -> str:
    """A hash of the names and bytes of all files below a folder."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and "__pycache__" not in file.parts]
    return digest(
        [(file.relative_to(folder).as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
    )


def digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def render(stage: Path, work: Path) -> Path:
    """Build the HTML with every warning an error: without -W a failed notebook would still exit with 0."""
    say("building the HTML")
    site = work / "site"
    shutil.rmtree(site, ignore_errors=True)
    program = Path(sys.executable).with_name("jupyter-book")
    command = [program, "build", stage, "--path-output", site, "--all", "-W", "-n", "--keep-going", "-q"]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode != 0:
        raise BuildError("jupyter-book reported the warnings above")
    return site / "_build" / "html"


def check_weights(html: Path) -> None:
    """Hold every page to its budget.

    Raises:
        BuildError: a page and its images weigh more than PAGE_BUDGET.
    """
    weights = {page.relative_to(html).as_posix(): page_weight(page, html) for page in sorted(html.rglob("*.html"))}
    heaviest = max(weights, key=weights.__getitem__)
    say(f"the heaviest of {len(weights)} pages is {heaviest}: {weights[heaviest] / 1e6:.2f} MB compressed")
    if weights[heaviest] > PAGE_BUDGET:
        raise BuildError(f"{heaviest} weighs more than {PAGE_BUDGET / 1e6:.0f} MB; show fewer or smaller frames")


def page_weight(page: Path, html: Path) -> int:
    """Bytes of a page, compressed, and of the images that it shows from the book's own folder."""
    text = page.read_bytes()
    images = set(re.findall(rb'_images/[^"\']+', text))
    return len(gzip.compress(text)) + sum((html / image.decode()).stat().st_size for image in images)


def say(message: str) -> None:
    print(f"book: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
