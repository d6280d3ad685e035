"""Turn executed notebooks of a run into the rendered ones that are read as documentation.

``python -m lib.rendering --profile mock`` gives ``notebooks/NN_name.ipynb`` the outputs of the run;
a notebook that the profile does not run is written without outputs. Code and words always come
from the reviewed source, ``notebooks/NN_name.py``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jupytext
import nbformat

from lib import profiles
from lib.paths import atomic, project_root, resolve
from lib.schema import InputError


def render(source: Path, executed: Path | None) -> nbformat.NotebookNode:
    """A notebook's source with the outputs of its executed copy.

    Parameters
    ----------
    source : Path
        The py:percent file.
    executed : Path or None
        Notebook that papermill has run, or None for no outputs.

    Raises
    ------
    InputError
        If the two differ in code or words: the source has changed since the run.
    """
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        # Stable names, so that git shows only what has changed.
        cell["id"] = f"cell-{number:02d}"
    if executed is None:
        return notebook
    run = nbformat.read(executed, as_version=4)
    cells = [c for c in run.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    if [c.source for c in cells] != [c.source for c in notebook.cells]:
        raise InputError(f"{executed} was run from another version of {source.name}: run it again")
    for cell, done in zip(notebook.cells, cells):
        if cell.cell_type == "code":
            cell.execution_count = done.execution_count
            # What libraries write to stderr while they load is no part of the story.
            told = [output for output in done.outputs if output.get("name") != "stderr"]
            cell.outputs = [_without_root(output) for output in told]
    return notebook


def _without_root(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An output in which files below the project are named from its root."""
    root = f"{project_root()}/"
    if "text" in output:
        output["text"] = output["text"].replace(root, "")
    for kind, content in output.get("data", {}).items():
        if kind.startswith("text/") and isinstance(content, str):
            output["data"][kind] = content.replace(root, "")
    return output


def main(argv: list[str] | None = None) -> int:
    """Command line of this module; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.rendering")
    parser.add_argument("--profile", default="mock")
    arguments = parser.parse_args(argv)
    try:
        profile = profiles.load(arguments.profile)
        for source in sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.py")):
            step = source.stem
            executed = resolve(profile.run_dir) / step / f"{step}.ipynb"
            if step in profile.steps and not executed.is_file():
                raise InputError(f"{executed} is missing: make run PROFILE={profile.name}")
            notebook = render(source, executed if step in profile.steps else None)
            with atomic(source.with_suffix(".ipynb")) as temporary:
                nbformat.write(notebook, temporary)
            print(f"rendered {step}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
