"""Turn executed notebooks of a run into the rendered ones that are read as documentation.

`render_all` gives ``notebooks/NN_name.ipynb`` the outputs of a finished run, of real galaxies if
there is one. Where no run is here, it keeps its outputs as long as its source has not changed.

Code and words come from the reviewed source, ``notebooks/NN_name.py``: a cell that only the
``.ipynb`` had would unpair the two, and JupyterLab would not open them. What only the run knows is
therefore output: of the first code cell, what made the outputs; of the `parameters` cell, the
values that were not its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import jupytext
import nbformat
from nbformat.v4 import new_output

from lib.paths import atomic, project_root, resolve
from lib.schema import InputError
from lib.workflow import profiles, receipts


def render(source: Path, executed: Path, made_by: str | None = None) -> nbformat.NotebookNode:
    """A notebook's source with the outputs of its executed copy.

    Parameters
    ----------
    source, executed : Path
        The py:percent file, and the notebook that papermill has run.
    made_by : str, optional
        What made the outputs, as Markdown, for the first code cell.

    Raises
    ------
    InputError
        If the two differ in code or words: the source has changed since the run.
    """
    notebook, run = jupytext.read(source), nbformat.read(executed, as_version=4)
    injected = [c for c in run.cells if "injected-parameters" in c.metadata.get("tags", [])]
    cells = [cell for cell in run.cells if cell not in injected]
    if [c.source for c in cells] != [c.source for c in notebook.cells]:
        raise InputError(f"{executed} was run from another version of {source.name}: run it again")
    for number, (cell, done) in enumerate(zip(notebook.cells, cells, strict=True)):
        # Stable names, so that git shows only what has changed.
        cell["id"] = f"cell-{number:02d}"
        if cell.cell_type == "code":
            cell.execution_count = done.execution_count
            # What libraries write to stderr while they load is no part of the story.
            told = [output for output in done.outputs if output.get("name") != "stderr"]
            cell.outputs = [_without_root(output) for output in told]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if made_by:
        code[0].outputs.insert(0, _words(made_by))
    for cell, new in zip([c for c in code if "parameters" in c.metadata.get("tags", [])], injected):
        said = new.source.removeprefix("# Parameters\n").strip()
        cell.outputs.append(_words(f"This run had other values:\n```python\n{said}\n```"))
    return notebook


def _words(text: str) -> nbformat.NotebookNode:
    return new_output("display_data", {"text/markdown": text, "text/plain": text})


def _without_root(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An output in which files below the project are named from its root."""
    for place in (output, output.get("data", {})):
        for kind, content in place.items():
            if kind.startswith("text") and isinstance(content, str):
                place[kind] = content.replace(f"{project_root()}/", "")
    return output


def render_from_runs(source: Path) -> tuple[nbformat.NotebookNode, str]:
    """A notebook with the outputs of a finished run of it, and whose these are.

    Runs on real galaxies come first. A run of another version of the source does not count.
    """
    step = source.stem
    having = [profile for profile in map(profiles.load, profiles.names()) if step in profile.steps]
    for profile in sorted(having, key=_is_real, reverse=True):
        with suppress(InputError, FileNotFoundError):
            executed = resolve(profile.run_dir) / step / f"{step}.ipynb"
            return render(source, executed, made_by(profile, step)), f"profile {profile.name}"
    with suppress(InputError, FileNotFoundError):
        return render(source, source.with_suffix(".ipynb")), "what is there (no run of it is here)"
    return jupytext.read(source), "nothing (no run of it is here)"


def _is_real(profile: profiles.Profile) -> bool:
    """Whether a profile's galaxies are those of a survey, not simulated ones."""
    settings = [profiles.default_parameters(s) | profile.overrides[s] for s in profile.steps]
    return any(s.get("survey", "mock") != "mock" for s in settings)


def render_all() -> Iterator[str]:
    """Render every notebook; tells what each is made from."""
    for source in sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.py")):
        notebook, origin = render_from_runs(source)
        with atomic(source.with_suffix(".ipynb")) as temporary:
            nbformat.write(notebook, temporary)
        yield f"rendered {source.stem} from {origin}"


def made_by(profile: profiles.Profile, step: str) -> str:
    """What made a step's outputs, in a line of Markdown, from its receipt.

    It says whether the galaxies are simulated or real and how many they are, the profile, the
    networks with their weights at the start, the time and the commit.
    """
    run_dir = resolve(profile.run_dir)
    receipt = receipts.read(run_dir / step)
    told, galaxies = receipt["parameters"], ""
    if "n_galaxies" in told:
        galaxies = f": {told['n_galaxies']:,}"
    elif (run_dir / "01_sample_selection" / receipts.NAME).is_file():
        sample = receipts.read(run_dir / "01_sample_selection")["rows"]["sample.parquet"]
        galaxies = f": {sample:,} in the sample"
    folders = [run_dir / out for out in profile.steps if out in receipt["inputs"]]
    cards = [*(run_dir / step).rglob("model.json"), *(f / "model.json" for f in folders)]
    cards = [json.loads(path.read_text()) for path in sorted(cards) if path.is_file()]
    networks = [
        f"{c['role']}: {c['backbone']} (weights: {weights_in_words(c['weights'])})" for c in cards
    ]
    # Without a card: what is trained here, or the bundled weights that are read.
    others = [f"reads {name}" for name in receipt["inputs"] if name.endswith(".safetensors")]
    networks = networks or [*filter(None, [told.get("backbone")]), *others]
    seconds, commit = receipt["wall_seconds"], receipt["git"]["commit"]
    parts = [
        f"**{'REAL' if _is_real(profile) else 'SIMULATED'} galaxies**" + galaxies,
        f"profile `{profile.name}` ({profile.description})",
        *dict.fromkeys(networks),
        f"run time {seconds:.0f} s" if seconds < 120 else f"run time {seconds / 60:.0f} min",
        *([f"commit {commit[:7]}"] if commit else []),
    ]
    return " · ".join(parts)


def weights_in_words(source: str) -> str:
    """What weights a network starts from, where the name of their source says too little."""
    words = {"mock": "bundled", "votes": "bundled, with real votes", "none": "random"}
    return words.get(source, source)
