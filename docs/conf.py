"""The book: pages of the project's own Markdown, notebooks and docstrings, made by Sphinx.

``make book`` builds it from the project's root. No notebook is run: they carry a run's outputs.
"""

import os
from pathlib import Path

import nbformat
from docutils import nodes

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # modules of lib are imported

project = "spiral-arms"
copyright = "the spiral-arms developers"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.apidoc", "numpydoc"]
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "docs/**", "notebooks/*.ipynb"]
include_patterns += ["data/README.md", "tests/**/README.md", "build/api/*"]
exclude_patterns = [".git", ".venv", "build/book", "runs", "**/.ipynb_checkpoints"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

apidoc_modules = [{"path": "../lib", "destination": "build/api"}]
apidoc_exclude_patterns = ["**/__main__.py"]
apidoc_separate_modules = True
apidoc_module_first = True
apidoc_automodule_options = {"members"}
autodoc_default_options = {"ignore-module-all": True}
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False

html_theme = "furo"
html_title = "spiral-arms"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["book.css"]
html_show_sphinx = False

CONTENTS = """
```{toctree}
:hidden:
:glob:
:caption: The notebooks
notebooks/*
```
```{toctree}
:hidden:
:glob:
:caption: Reports and guides
docs/reports/*
docs/*
CONTRIBUTING
data/README
tests/**/README
```
```{toctree}
:hidden:
:caption: Reference
build/api/modules
```
"""


def add_contents(app, name, text):
    """Give the first page, which is also read outside the book, the list of all others."""
    if name == root_doc:
        text[0] += CONTENTS


def describe_figures(app, page):
    """Give each figure of a notebook its own text: MyST-NB reads one for all figures of a cell."""
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix != ".ipynb":
        return
    texts = [
        output.metadata[kind].get("alt", "")
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", ())
        for kind in output.get("data", ())
        if kind.startswith("image/")
    ]
    shown = [
        image
        for output in page.findall(nodes.container)
        if output.get("mime_type", "").startswith("image/")
        for image in output.findall(nodes.image)
    ]
    for image, text in zip(shown, texts, strict=True):
        image["alt"] = text


def open_at_readme(app, error):
    """Let the folder's own page lead to the first one."""
    page = '<meta http-equiv="refresh" content="0; url=README.html">'
    Path(app.outdir, "index.html").write_text(page)


def setup(app):
    """Connect the functions above."""
    app.connect("source-read", add_contents)
    app.connect("doctree-read", describe_figures)
    app.connect("build-finished", open_at_readme)
