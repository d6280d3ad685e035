"""Notebook 13: which galaxies are shown, and the widgets in a real JupyterLab."""

import os
import socket
import subprocess
import sys
import time

import jupytext
import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from astropy.io.votable import parse_single_table
from browser import BROKEN_PICTURES, console_errors, open_browser
from conftest import ROOT
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from lib.explain import explore
from lib.schema import ARM_CLASSES

IDS = [587722981742084096 + k for k in range(5)]


@pytest.fixture
def browser(tmp_path):
    """The widgets, on a table of five galaxies; a page shows its first galaxy's number."""
    table = pd.DataFrame({"galaxy_id": IDS, "label": ["2", "2", "2", "1", "?"]})
    for role, predicted, probability in (
        ("B0", "22212", (1, 0.8, 0.6, 1, 0.9)),
        ("V2M", "?1111", (1, 0.8, 0.5, 1, 0.9)),
    ):
        table[f"predicted_{role}"] = list(predicted)
        table[f"probability_{role}"] = probability
    table["disagreement"] = [1, 0.6, 0.1, 0, 0]

    def draw(rows):
        figure, axes = plt.subplots()
        axes.set_title(rows["galaxy_id"].iloc[0])
        return figure

    return explore.Browser(table, ARM_CLASSES, ("B0", "V2M"), draw, tmp_path, per_page=2)


@pytest.mark.parametrize(
    ("filters", "chosen"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"label": "2"}, [0, 1, 2]),
        ({"role": "V2M", "predicted": "1"}, [1, 2, 3, 4]),
        ({"probability": (0.7, 0.95)}, [1, 4]),
        ({"disagreement": (0.05, 0.9)}, [1, 2]),
        ({"galaxy_id": f" {IDS[2]} "}, [2]),
        ({"galaxy_id": "."}, []),
        ({"label": "3"}, []),
    ],
)
def test_each_filter_alone(browser, filters, chosen):
    for name, value in filters.items():
        browser.filters[name].value = value
    assert list(browser.selection["galaxy_id"]) == [IDS[k] for k in chosen]


def test_pages_are_turned_to_the_end_and_back(browser):
    assert f"1 to 2 of 5: {IDS[0]}, {IDS[1]}" in browser.said.value and browser.previous.disabled
    first = browser.picture.value
    browser.next.click()
    browser.next.click()
    assert f"5 to 5 of 5: {IDS[4]}" in browser.said.value and browser.next.disabled
    assert browser.picture.value != first
    browser.previous.click()
    browser.previous.click()
    assert browser.picture.value == first and f'alt="Galaxies {IDS[0]}' in first
    assert (browser.previous.description, browser.next.description) == ("previous", "next")


def test_a_filter_starts_at_the_first_page_and_its_selection_is_saved(browser, tmp_path):
    browser.next.click()
    browser.filters["label"].value = "2"
    assert "1 to 2 of 3" in browser.said.value
    browser.save.click()
    assert "saved 3 galaxies" in browser.said.value
    assert list(pd.read_csv(tmp_path / "selection.csv")["galaxy_id"]) == IDS[:3]
    votable = parse_single_table(tmp_path / "selection.vot").to_table()
    assert list(votable["galaxy_id"]) == IDS[:3] and list(votable["predicted_V2M"]) == [
        "?",
        "1",
        "1",
    ]
    browser.filters["label"].value = "3"
    assert "no galaxy fits" in browser.said.value and browser.picture.value == ""
    browser.save.click()
    assert list(pd.read_csv(tmp_path / "selection.csv")["galaxy_id"]) == IDS[:3]


@pytest.mark.chain
def test_in_batch_there_is_a_fixed_page_and_no_widget(smoke):
    folder = smoke[1] / "13_explore"
    examples = pd.read_csv(folder / "examples.csv")
    assert (folder / "examples.png").exists() and examples["label"].is_unique
    cells = nbformat.read(folder / "13_explore.ipynb", as_version=4).cells
    kinds = {kind for c in cells for o in c.get("outputs", ()) for kind in o.get("data", ())}
    assert {"image/png", "image/jpeg"} & kinds
    assert not [kind for kind in kinds if "widget" in kind]


@pytest.fixture
def lab(smoke, tmp_path):
    """A JupyterLab with notebook 13 on the finished smoke run; its address."""
    notebook = jupytext.read(ROOT / "notebooks" / "13_explore.py")
    for cell in notebook.cells:
        cell.source = cell.source.replace('"runs/mock"', '"runs/smoke"')
        cell.source = cell.source.replace("size=(20,", "size=(2,")
    nbformat.write(notebook, tmp_path / "13_explore.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"]
    command += [
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--notebook-dir={tmp_path}",
    ]
    command += ["--IdentityProvider.token=", "--expose-app-in-browser", "--LabApp.news_url=None"]
    environment = {**os.environ, "SPIRAL_ARMS_ROOT": str(smoke[1].parent.parent)}
    environment |= {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "PYTHONPATH": str(ROOT)}
    with open(tmp_path / "lab.txt", "w") as log:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    deadline = time.time() + 120
    while time.time() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/lab/tree/13_explore.ipynb?reset"
    server.terminate()
    server.wait(60)


@pytest.mark.slow
@pytest.mark.chain
def test_widgets_filter_galaxies_in_jupyterlab(lab):
    chromium = open_browser()
    try:
        # JupyterLab draws elements anew while the cells run: look again where one went away.
        gone = [StaleElementReferenceException, NoSuchElementException]
        wait = WebDriverWait(chromium, 300, poll_frequency=0.5, ignored_exceptions=gone)
        chromium.get(lab)
        # Cells that are run before the kernel is there are dropped without a word.
        status = "shell?.currentWidget?.sessionContext?.session?.kernel?.status"
        ready = f"return window.jupyterapp?.{status} == 'idle'"
        wait.until(lambda b: b.execute_script(ready))
        chromium.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")

        def picture(b):
            return b.find_element(By.CSS_SELECTOR, ".widget-html img").get_attribute("src")

        def label(b):
            return Select(b.find_element(By.CSS_SELECTOR, ".widget-dropdown select"))

        first = wait.until(picture)
        dropdowns = ".widget-dropdown select"
        wait.until(lambda b: len(b.find_elements(By.CSS_SELECTOR, dropdowns)) == 3)
        options = wait.until(lambda b: [option.text for option in label(b).options])
        assert options == [explore.ANY, *ARM_CLASSES]
        wait.until(lambda b: label(b).select_by_visible_text("3") or True)
        wait.until(lambda b: picture(b) != first)
        assert chromium.execute_script(BROKEN_PICTURES) == []
        stderr = ".jp-RenderedText[data-mime-type*=stderr]"
        assert [e.text for e in chromium.find_elements(By.CSS_SELECTOR, stderr)] == []
        assert console_errors(chromium) == []
    finally:
        chromium.quit()
