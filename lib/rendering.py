"""Turn executed notebooks of a run into the rendered ones that are read as documentation.

``python -m lib.rendering --profile mock`` gives ``notebooks/NN_name.ipynb`` the outputs of the run.
A notebook that the profile does not have is taken from a finished run of another one that has it;
where there is none here, it keeps its outputs as long as its source has not changed. Code and words
always come from the reviewed source, ``notebooks/NN_name.py``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jupytext
import nbformat

from lib import profiles, receipts
from lib.paths import atomic, project_root, resolve
from lib.schema import InputError

ORIGIN = "rendered_from"
"""Key of a rendered notebook's metadata that names its run: profile, description, commit."""


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


def render_from(profile: profiles.Profile, source: Path) -> nbformat.NotebookNode:
    """A notebook's source with the outputs of the profile's run, or else of another profile's.

    Its metadata says under `ORIGIN` whose outputs they are.

    Raises
    ------
    InputError
        If the profile has the step but has not finished it, or if the run that is taken is of
        another version of the source.
    """
    step = source.stem
    if step in profile.steps and not _executed(profile, step).is_file():
        raise InputError(f"{_executed(profile, step)} is missing: make run PROFILE={profile.name}")
    others = [other for other in map(profiles.load, profiles.names()) if step in other.steps]
    for chosen in [profile] if step in profile.steps else others:
        executed = _executed(chosen, step)
        if executed.is_file():
            notebook = render(source, executed)
            notebook.metadata[ORIGIN] = {
                "profile": chosen.name,
                "description": chosen.description,
                "commit": receipts.read(executed.parent)["git"]["commit"],
            }
            return notebook
    return _as_kept(source)


def _as_kept(source: Path) -> nbformat.NotebookNode:
    """A notebook with the outputs that it has already; without any if its source has changed."""
    kept = source.with_suffix(".ipynb")
    try:
        notebook = render(source, kept if kept.is_file() else None)
    except InputError:
        return render(source, None)
    if kept.is_file() and ORIGIN in (metadata := nbformat.read(kept, as_version=4).metadata):
        notebook.metadata[ORIGIN] = metadata[ORIGIN]
    return notebook


def was_run(notebook: nbformat.NotebookNode) -> bool:
    """Whether every code cell of a notebook has been run."""
    return all(c.execution_count is not None for c in notebook.cells if c.cell_type == "code")


def _executed(profile: profiles.Profile, step: str) -> Path:
    """Executed notebook of a step; it is there when the step has ended well."""
    return resolve(profile.run_dir) / step / f"{step}.ipynb"


def main(argv: list[str] | None = None) -> int:
    """Command line of this module; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.rendering")
    parser.add_argument("--profile", default="mock")
    arguments = parser.parse_args(argv)
    try:
        profile = profiles.load(arguments.profile)
        for source in sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.py")):
            notebook = render_from(profile, source)
            with atomic(source.with_suffix(".ipynb")) as temporary:
                nbformat.write(notebook, temporary)
            origin = notebook.metadata.get(ORIGIN, {"profile": "(no run is here)"})
            print(f"rendered {source.stem} from profile {origin['profile']}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
