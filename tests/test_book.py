"""The book, built as `make book` does it and looked at in a browser."""

import json
from html.parser import HTMLParser

import nbformat
import pytest
from browser import BROKEN_PICTURES, console_errors, open_browser, serve
from conftest import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from selenium.webdriver.support.wait import WebDriverWait

from lib import book, rendering, report

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))

PICTURES_WITHOUT_TEXT = """
return [...document.querySelectorAll("article img")]
    .filter(i => i.alt.length < 10 && !i.src.includes("_static")).map(i => i.src)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book") / "site"
    assert book.main([str(folder)]) == 0
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
    reports = {f"reports/{p.stem}.html" for p in (ROOT / "docs" / "reports").glob("*.json")}
    modules = {"api/lib.schema.html", "api/lib.explain.maps.html", "api/lib.surveys.mock.html"}
    assert notebooks | guides | reports | modules <= pages
    assert {"index.html", "search.html", "genindex.html", "CONTRIBUTING.html"} <= pages
    assert notebooks and reports


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


def test_a_page_says_whose_outputs_it_shows(tmp_path):
    notebook = new_notebook(cells=[new_markdown_cell("# Title"), new_code_cell("1 + 1")])
    nbformat.write(notebook, tmp_path / "a.ipynb")
    assert "has not been run yet" in book.as_shown(tmp_path / "a.ipynb").cells[0].source
    notebook.cells[1].execution_count = 1
    notebook.metadata[rendering.ORIGIN] = {
        "profile": "weights",
        "description": "pre-training",
        "commit": "0123456789",
    }
    nbformat.write(notebook, tmp_path / "a.ipynb")
    said = book.as_shown(tmp_path / "a.ipynb").cells[0].source
    assert said.endswith("*Outputs of profile `weights` (pre-training) at commit 0123456.*")


def test_every_page_opens_without_errors(site, browser):
    address = serve(site)
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        browser.get(f"{address}/{name}")
        assert console_errors(browser) == [], name
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


def test_the_table_paper_and_ours_is_that_of_the_report(site):
    for path in (ROOT / "docs" / "reports").glob("*.json"):
        run = json.loads(path.read_text())
        page = (site / "reports" / f"{path.stem}.html").read_text()
        for row in report.beside_paper(run).itertuples():
            cells = "</p></td>\n<td><p>".join([row.ours, row.interval, row.paper])
            assert cells in page


def test_links_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#there">1</a><a href="b.html#not">2</a>')
    (tmp_path / "b.html").write_text('<p id="there"></p><img src="c.png"><a href="https://x/y">')
    assert book.broken_links(tmp_path) == ["a.html: b.html#not", "b.html: c.png"]
