"""Notebook 13: which galaxies are shown, the page, and the widgets in a real JupyterLab."""

import os
import re
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import jupytext
import nbformat
import numpy as np
import pandas as pd
import pytest
from browser import BROKEN_PICTURES, console_errors, open_browser
from conftest import ROOT
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from lib.explain import explore
from lib.schema import ARM_CLASSES, RHO_COLUMNS, InputError, probability_columns

CLASSES = ARM_CLASSES
IDS = [587722981742084096 + k for k in range(5)]


def predictions(rows):
    """A table of predictions from the probabilities of classes 1, 2 and ?."""
    p = np.zeros((len(rows), 6))
    p[:, [0, 1, 5]] = rows
    table = pd.DataFrame({"galaxy_id": IDS, "label": ["1", "2", "2", "?", "2"]})
    table["split"] = ["train", "validation", "validation", "validation", "validation"]
    table["predicted"] = np.array(CLASSES)[p.argmax(axis=1)]
    table[probability_columns(CLASSES)] = p
    return table


FIRST = [(1, 0, 0), (0.2, 0.8, 0), (0.4, 0.6, 0), (0, 0.1, 0.9), (0, 1, 0)]
SECOND = [(1, 0, 0), (0.8, 0.2, 0), (0.5, 0.5, 0), (0, 0.1, 0.9), (0, 0, 1)]


@pytest.fixture
def table():
    sample = pd.DataFrame({"galaxy_id": IDS[::-1]})
    sample[list(RHO_COLUMNS)] = 0.5
    return explore.galaxies(sample, {"B0": predictions(FIRST), "V2M": predictions(SECOND)})


def test_disagreement_is_the_distance_of_the_probabilities(table):
    assert list(table["galaxy_id"]) == IDS
    np.testing.assert_allclose(table["disagreement"], [0, 0.6, 0.1, 0, 1])
    assert list(table["predicted_V2M"]) == ["1", "1", "1", "?", "?"]
    np.testing.assert_allclose(table["probability_B0"], [1, 0.8, 0.6, 0.9, 1])


def test_the_probability_is_that_of_the_class_predicted():
    """Offsets of the decision may name another class than the most probable one."""
    decided = predictions(FIRST).assign(predicted=["1", "1", "1", "2", "2"])
    sample = pd.DataFrame({"galaxy_id": IDS})
    sample[list(RHO_COLUMNS)] = 0.5
    found = explore.galaxies(sample, {"B0": decided, "V2M": predictions(SECOND)})
    np.testing.assert_allclose(found["probability_B0"], [1, 0.2, 0.4, 0.1, 1])
    np.testing.assert_allclose(found["probability_V2M"], [1, 0.8, 0.5, 0.9, 1])


def test_networks_with_other_classes_are_refused():
    other = predictions(SECOND).drop(columns="p_5plus")
    with pytest.raises(InputError, match="the same merge of classes"):
        explore.galaxies(pd.DataFrame(), {"B0": predictions(FIRST), "V2M": other})


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({}, [4, 1, 2, 0, 3]),
        ({"label": "2"}, [4, 1, 2]),
        ({"role": "V2M", "predicted": "?"}, [4, 3]),
        ({"probability": (0.7, 0.95)}, [1, 3]),
        ({"disagreement": (0.05, 0.9)}, [1, 2]),
        ({"galaxy_id": f" {IDS[2]} "}, [2]),
        ({"galaxy_id": "."}, []),
        ({"label": "3"}, []),
    ],
)
def test_each_filter_alone(table, settings, chosen):
    found = explore.Filter(**{"role": "B0", **settings}).choose(table)
    assert list(found["galaxy_id"]) == [IDS[k] for k in chosen]


def test_the_fixed_page_has_each_label_s_most_disputed_galaxy_of_the_split(table):
    found = explore.examples(table, CLASSES, "validation")
    assert list(found["galaxy_id"]) == [IDS[4], IDS[3]]


@pytest.fixture
def browser(table, tmp_path):
    """The widgets, on networks that say what they say without being run."""
    pixels = np.random.default_rng(2).integers(0, 256, (5, 32, 32, 3), np.uint8)

    def subject(rows):
        return SimpleNamespace(
            run=SimpleNamespace(predictions=predictions(rows), classes=CLASSES),
            cutouts=lambda ids: pixels[: len(ids)],
            wide_cutouts=lambda ids: pixels[: len(ids)],
            maps=lambda method, asked: pixels[: len(asked), :, :, 0].astype(float),
        )

    subjects = {"B0": subject(FIRST), "V2M": subject(SECOND)}
    return explore.Browser(table, subjects, tmp_path, per_page=2)


def test_pages_are_turned_to_the_end_and_back(browser):
    assert f"1 to 2 of 5: {IDS[4]}, {IDS[1]}" in browser.said.value and browser.back.disabled
    first = browser.picture.value
    browser.forth.click()
    browser.forth.click()
    assert f"5 to 5 of 5: {IDS[3]}" in browser.said.value and browser.forth.disabled
    browser.back.click()
    browser.back.click()
    assert browser.picture.value == first and f'alt="Galaxies {IDS[4]}' in first


def test_a_filter_starts_at_the_first_page_and_its_selection_is_saved(browser, tmp_path):
    browser.forth.click()
    browser.filters["label"].value = "2"
    assert "1 to 2 of 3" in browser.said.value
    browser.save.click()
    assert "saved 3 galaxies" in browser.said.value
    saved = pd.read_csv(tmp_path / "selection.csv")
    assert list(saved["galaxy_id"]) == [IDS[4], IDS[1], IDS[2]]
    browser.filters["label"].value = "3"
    assert "no galaxy fits" in browser.said.value and browser.picture.value == ""


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
        cell.source = re.sub(r"smooth_samples = \d+", "smooth_samples = 2", cell.source)
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
        assert options == [explore.ANY, *CLASSES]
        wait.until(lambda b: label(b).select_by_visible_text("3") or True)
        wait.until(lambda b: picture(b) != first)
        assert chromium.execute_script(BROKEN_PICTURES) == []
        assert (
            chromium.find_elements(By.CSS_SELECTOR, ".jp-RenderedText[data-mime-type*=stderr]")
            == []
        )
        assert console_errors(chromium) == []
    finally:
        chromium.quit()
