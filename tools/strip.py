"""Strip notebooks for a commit: no outputs, no counters, no machine's metadata.

Cells with the tag nbval-check-output keep their text: nbval compares it with a new run, and without it would compare
nothing.
"""

import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_output

CHECKED = "nbval-check-output"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def main(files: list[str]) -> int:
    """Strip each file in place; 1 if a file changed, as pre-commit expects of a hook that edits."""
    changed = [file for file in files if strip_file(Path(file))]
    for file in changed:
        print(f"stripped {file}")
    return 1 if changed else 0


def strip_file(file: Path) -> bool:
    before = file.read_text(encoding="utf-8")
    after = nbformat.writes(strip(nbformat.reads(before, as_version=4))) + "\n"
    file.write_text(after, encoding="utf-8")
    return before != after


def strip(notebook: NotebookNode) -> NotebookNode:
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.outputs = checked_text(cell.outputs) if CHECKED in tags else []
            cell.execution_count = 1 if cell.outputs else None  # nbval takes a cell without a count for one never run
    return notebook


def checked_text(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """What a cell printed, in one piece, and its value as text."""
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    values = [output.data["text/plain"] for output in outputs if output.output_type == "execute_result"]
    streams = [new_output("stream", name="stdout", text=printed)] if printed else []
    return streams + [new_output("execute_result", data={"text/plain": value}) for value in values]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
