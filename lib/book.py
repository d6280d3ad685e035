"""The book: notebooks, reports, guides and the API of `lib` as a small static site.

``python -m lib.book build/book`` lays the pages' sources out in ``build/book-source``, lets Sphinx
build them and looks for links that lead nowhere. No notebook is run: they carry the outputs of the
embedded run, and pages about runs are made from the reports in ``docs/reports``.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat

from lib import rendering, report
from lib.paths import project_root
from lib.schema import InputError

REPORTS = "docs/reports"
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def build(site: str | Path) -> list[str]:
    """Build the book and return its links that lead nowhere.

    Parameters
    ----------
    site : path
        Folder of the pages; an earlier book in it is replaced. The sources lie beside it, in
        ``<site>-source``.

    Raises
    ------
    InputError
        If Sphinx finds fault with a page; it has then said where.
    """
    site = Path(site).absolute()
    source = site.with_name(site.name + "-source")
    for folder in (site, source):
        shutil.rmtree(folder, ignore_errors=True)
    lay_out(source)
    command = [sys.executable, "-m", "sphinx", "--builder", "html", "--jobs", "auto"]
    command += ["--quiet", "--fail-on-warning", "--keep-going", str(source), str(site)]
    if subprocess.run(command).returncode:
        raise InputError(f"the book in {site} is not as it should be: see the warnings above")
    return broken_links(site)


def lay_out(source: Path) -> None:
    """Write the sources of all pages into a folder, laid out as in the project."""
    root = project_root()
    shutil.copytree(root / "docs", source, ignore=shutil.ignore_patterns("*.md", "reports"))
    shutil.copytree(root / "figures", source / "figures")
    pages = ["README.md", "CONTRIBUTING.md", "data/README.md", "figures/README.md"]
    for place in ("docs/*.md", "tests/**/README.md"):
        pages += [path.relative_to(root).as_posix() for path in sorted(root.glob(place))]
    for page in pages:
        _write(source / page, _page(page, source))
    notebooks = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    for path in notebooks:
        _write(source / "notebooks" / path.name, nbformat.writes(as_shown(path)))
    reports = sorted((root / REPORTS).glob("*.json"))
    for path in reports:
        text = as_page(json.loads(path.read_text(encoding="utf-8")))
        _write(source / "reports" / f"{path.stem}.md", text)
    modules = module_names()
    for name in modules:
        _write(source / "api" / f"{name}.md", _api_page(name))
    _write(source / "api" / "index.md", "# The library\n\n" + _toctree("", modules, hidden=False))
    (source / "README.md").rename(source / "index.md")
    guides = [page.removesuffix(".md") for page in pages[1:]]
    trees = [
        _toctree("The notebooks", [f"notebooks/{path.stem}" for path in notebooks]),
        _toctree("Reports", [f"reports/{path.stem}" for path in reports]),
        _toctree("Guides", guides),
        _toctree("Reference", ["api/index"]),
    ]
    with open(source / "index.md", "a", encoding="utf-8") as file:
        file.write("\n" + "\n".join(trees))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _toctree(caption: str, names: list[str], hidden: bool = True) -> str:
    options = ([":hidden:"] if hidden else []) + ([f":caption: {caption}"] if caption else [])
    return "\n".join(["```{toctree}", *options, "", *names, "```", ""])


def _page(page: str, source: Path) -> str:
    """A page's text, in which links to code lead to the API and other files are taken along."""
    root = project_root()

    def lead(match: re.Match) -> str:
        text, target, anchor = match.group(1), match.group(2), match.group(3) or ""
        if "://" in target:
            return match.group(0)
        path = Path(os.path.normpath(Path(page).parent / target))
        up = "../" * (len(Path(page).parts) - 1)
        if path.parts[0] == "lib":
            name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
            return f"[{text}]({up}api/{name}.md)"
        if path.as_posix() == "README.md":
            return f"[{text}]({up}index.md{anchor})"
        if (root / path).is_dir():
            return text
        if path.suffix not in (".md", ".ipynb"):
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / path, source / path)
        return match.group(0)

    return LINK.sub(lead, (root / page).read_text(encoding="utf-8"))


def as_shown(path: Path) -> nbformat.NotebookNode:
    """A notebook as the book shows it: each figure with its own text, and whose outputs they are.

    `lib.figures.style.show` leaves a figure's alternative text in the output; MyST-NB reads one for
    all figures of a cell. What follows a cell's first figure therefore goes into cells of its own,
    whose code is not shown.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source += "\n\n" + _origin(notebook)
    notebook.cells = [part for cell in notebook.cells for part in _one_figure_each(cell)]
    return notebook


def _origin(notebook: nbformat.NotebookNode) -> str:
    """Which run a notebook's outputs are of, in a sentence; empty if it was run by hand."""
    if not rendering.was_run(notebook):
        return "*This notebook has not been run yet: no outputs are shown.*"
    if rendering.ORIGIN not in notebook.metadata:
        return ""
    origin = notebook.metadata[rendering.ORIGIN]
    commit = f" at commit {origin['commit'][:7]}" if origin["commit"] else ""
    return f"*Outputs of profile `{origin['profile']}` ({origin['description']}){commit}.*"


def _one_figure_each(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    if cell.cell_type != "code":
        return [cell]
    parts = [[]]
    for output in cell.outputs:
        if _alt(output) and any(map(_alt, parts[-1])):
            parts.append([])
        parts[-1].append(output)
    cells = [cell]
    for number, _ in enumerate(parts[1:], 1):
        more = copy.deepcopy(cell)
        more.id = f"{cell.id}-{number}"
        more.metadata["tags"] = [*cell.metadata.get("tags", []), "remove-input"]
        cells.append(more)
    for part, outputs in zip(cells, parts):
        part.outputs = outputs
        for alt in filter(None, map(_alt, outputs)):
            part.metadata.setdefault("mystnb", {})["image"] = {"alt": alt}
    return cells


def _alt(output: nbformat.NotebookNode) -> str | None:
    """Alternative text of an output's figure; None where it shows none."""
    for kind, facts in output.get("metadata", {}).items():
        if kind.startswith("image/") and "alt" in facts:
            return facts["alt"]
    return None


def module_names() -> list[str]:
    """Names of all modules of `lib` that are imported, not run."""
    root = project_root()
    paths = [path.relative_to(root).with_suffix("") for path in (root / "lib").rglob("*.py")]
    names = {".".join(path.parts).removesuffix(".__init__") for path in paths}
    return sorted(name for name in names if not name.endswith("__main__"))


def _api_page(name: str) -> str:
    directive = f".. automodule:: {name}\n   :members:\n   :ignore-module-all:"
    return f"# {name}\n\n```{{eval-rst}}\n{directive}\n```\n"


def as_page(run: dict) -> str:
    """Page about a run: its table paper / ours, its numbers, and where its figures are.

    Parameters
    ----------
    run : dict
        What `lib.report.gather` returns.
    """
    lines = [f"# Profile {run['profile']}: paper and ours", ""]
    if run["comparison"] is not None:
        lines += [
            "Each cell of the paper's Table 3 that this run has, with its 95 % interval; *inside* "
            "says whether the paper's number lies in it. A run on other data or other weights than "
            "the paper's need not agree.",
            "",
            report.markdown(report.beside_paper(run)),
            "",
        ]
    lines += ["## All numbers", "", report.markdown(report.number_table(run)), ""]
    lines += ["## Figures", ""]
    for step, facts in run["steps"].items():
        names = ", ".join(Path(f["file"]).stem.replace("_", " ") for f in facts["figures"])
        lines += [f"* [{step}](../notebooks/{step}.ipynb): {names}"] if names else []
    return "\n".join(lines) + "\n"


class _Links(HTMLParser):
    """Targets and anchors of a page."""

    def __init__(self):
        super().__init__()
        self.targets, self.anchors = [], set()

    def handle_starttag(self, tag, attributes):
        facts = dict(attributes)
        self.anchors |= {facts[name] for name in ("id", "name") if facts.get(name)}
        self.targets += [facts[name] for name in ("href", "src") if facts.get(name)]


def broken_links(site: str | Path) -> list[str]:
    """Links and pictures inside a site that are not there.

    Returns
    -------
    list of str
        ``page: target`` for each.
    """
    site, pages = Path(site).resolve(), {}
    for path in sorted(site.rglob("*.html")):
        pages[path] = _Links()
        pages[path].feed(path.read_text(encoding="utf-8"))
    broken = []
    for path, page in pages.items():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = there / "index.html" if there.is_dir() else there
            known = pages[there].anchors if there in pages else {parts.fragment}
            if not there.is_file() or (parts.fragment and parts.fragment not in known):
                broken.append(f"{path.relative_to(site)}: {target}")
    return broken


def main(argv: list[str] | None = None) -> int:
    """Command line of this module; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.book", description=__doc__.split("\n")[0])
    parser.add_argument("site", help="folder to make, e.g. build/book")
    site = Path(parser.parse_args(argv).site)
    try:
        broken = build(site)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for link in broken:
        print(f"error: a link leads nowhere: {link}", file=sys.stderr)
    print(f"the book: {site / 'index.html'}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
