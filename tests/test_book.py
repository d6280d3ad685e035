"""The book, built as `make book` does it and looked at in a browser."""

import os
import subprocess
import sys
from html.parser import HTMLParser

import nbformat
import pytest
from browser import BROKEN_PICTURES, console_errors, open_browser, serve
from conftest import ROOT
from selenium.webdriver.support.wait import WebDriverWait

pytestmark = pytest.mark.slow
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))

PICTURES_WITHOUT_TEXT = """
return [...document.querySelectorAll("article img")]
    .filter(i => i.alt.length < 10 && !i.src.includes("_static")).map(i => i.src)
"""


def sphinx(source, site, *options):
    """Build as the recipe of `make book` does."""
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    command += [*options, "-c", str(ROOT / "docs"), str(source), str(site)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book") / "site"
    built = sphinx(ROOT, folder)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def browser():
    browser = open_browser()
    yield browser
    browser.quit()


def test_it_has_every_notebook_guide_report_and_module(site):
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    notebooks = {f"notebooks/{path.stem}.html" for path in NOTEBOOKS}
    guides = {f"docs/{p.stem}.html" for p in (ROOT / "docs").glob("*.md")}
    reports = {f"docs/reports/{p.stem}.html" for p in (ROOT / "docs" / "reports").glob("*.md")}
    modules = {"build/api/lib.schema.html", "build/api/lib.surveys.mock.html"}
    assert notebooks | guides | reports | modules <= pages
    assert {"index.html", "README.html", "search.html", "CONTRIBUTING.html"} <= pages
    assert notebooks and reports


def test_links_that_lead_nowhere_stop_the_build(tmp_path):
    """Neither to a missing file nor to a missing heading."""
    (tmp_path / "README.md").write_text("# A\n\n[1](there.md) [2](docs/b.md#not)\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "b.md").write_text("# B\n")
    built = sphinx(tmp_path, tmp_path / "site", "-D", "extensions=myst_nb")
    assert built.returncode != 0
    assert "'there.md'" in built.stderr and "'not'" in built.stderr


class Pictures(HTMLParser):
    """Alternative texts of a page's pictures, in order."""

    def __init__(self):
        super().__init__()
        self.alts = []

    def handle_starttag(self, tag, attributes):
        facts = dict(attributes)
        if tag == "img" and "_images/" in facts["src"]:
            self.alts.append(facts["alt"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_figures_are_those_of_the_run_each_with_its_own_text(site, path):
    """Nothing is executed, nothing is lost, and no figure is described by another one's caption."""
    told = [
        output.metadata[kind]["alt"]
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", ())
        for kind in output.get("data", ())
        if kind.startswith("image/")
    ]
    page = Pictures()
    page.feed((site / "notebooks" / f"{path.stem}.html").read_text())
    assert page.alts == told


def test_every_page_opens_without_errors(site, browser):
    address = serve(site)
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        browser.get(f"{address}/{name}")
        # Formulas are set by MathJax from the net, which may be out of reach here.
        assert [e for e in console_errors(browser) if "mathjax" not in e] == [], name
        assert browser.execute_script(BROKEN_PICTURES) == [], name
        assert browser.execute_script(PICTURES_WITHOUT_TEXT) == [], name
        assert browser.title.endswith("spiral-arms"), name


def test_search_finds_a_word_of_a_notebook(site, browser):
    browser.get(f"{serve(site)}/search.html?q=SmoothGrad")
    found = "#search-results ul.search li a"
    WebDriverWait(browser, 60).until(lambda b: b.find_elements("css selector", found))
    links = [a.get_attribute("href") for a in browser.find_elements("css selector", found)]
    assert any("05_explainability.html" in link for link in links)
    assert console_errors(browser) == []
