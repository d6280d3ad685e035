"""The benchmarks run, in a size that says nothing about speed; nothing here is timed."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

FOLDER = ROOT / "tests" / "benchmarks"
sys.path.insert(0, str(FOLDER))

import cost  # noqa: E402

CATALOGUE_STEPS = ["surveys", "selection", "evaluation", "stellar_mass.catalogue", "images"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    command = [sys.executable, str(FOLDER / "bench.py"), "--size", "tiny", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text()), done.stdout


@pytest.mark.slow
def test_every_section_gives_its_numbers(report):
    found, printed = report
    assert set(found["sections"]) == {
        "frozen_backbone",
        "frozen_accuracy",
        "inputs",
        "fine_tuning",
        "prediction",
        "lite",
        "memory",
        "start_up",
        "chain",
    }
    for rows in found["sections"].values():
        assert rows
        for row in rows:
            numbers = [v for v in row.values() if isinstance(v, float) and v == v]
            assert numbers and all(abs(v) < float("inf") for v in numbers)
    assert found["machine"]["processors"] and "commit" in found["git"]
    assert "From JPEG to probabilities" in printed


@pytest.mark.slow
def test_copies_as_many_as_epochs_are_the_reference(report):
    rows = report[0]["sections"]["frozen_accuracy"]
    assert rows[-1]["copies K"] == rows[-1]["epochs"]
    assert rows[-1]["minus K = epochs"] == rows[-1]["low"] == rows[-1]["high"] == 0


def test_cost_by_hand():
    prediction = [
        {"what": "lib.predict, JPEG to probability", "processor ms/image": 18.0, "crop [px]": 224},
        {"what": "decoding alone, one thread", "processor ms/image": 2.0},
    ]
    fine_tuning = [{"part": "forward", "ms per image": 35.0, "network": "V2, 224 px"}]
    report = {
        "size": "full",
        "machine": {"processors": 2, "platform": "Linux"},
        "sections": {"prediction": prediction, "fine_tuning": fine_tuning},
    }
    lines = cost.table(report).splitlines()
    # 18 ms x 1e9 = 5,000 core-hours; (2 x 35 + 2) ms x 1e9 = 20,000 core-hours
    assert lines[2].startswith("| EfficientNetB0, 224 px, ONNX Runtime | 5,000 | 104.2 | 3.3 |")
    assert lines[3].startswith("| V2, 224 px, TensorFlow | 20,000 | 416.7 | 13.0 |")
    assert "size `full` on 2 cores" in lines[-1]


def test_copies_table_by_hand():
    row = {"validation galaxies": 90, "epochs": 10, "trainings": 2, "seconds, measured": 4.25}
    row |= {"accuracy": 0.7, "minus K = epochs": -0.01, "low": -0.04, "high": 0.02}
    sections = {
        "frozen_accuracy": [{**row, "copies K": 5}],
        "frozen_backbone": [{"copies K": 5, "ratio": 31.44}, {"copies K": 50, "ratio": 4.9}],
    }
    report = {"size": "quick", "machine": {"processors": 2}, "sections": sections}
    lines = cost.copies_table(report).splitlines()
    assert "minus K = 10" in lines[0] and "seconds of 2 trainings" in lines[0]
    assert lines[2] == "| 5 | 0.700 | -0.010 (-0.040 to +0.020) | 4.2 | 31.4 |"
    assert lines[3] == "| 50 |  |  |  | 4.9 |"


@pytest.mark.parametrize(
    ("page", "start", "end", "table"),
    [
        (cost.PAGE, cost.START, cost.END, cost.table),
        (cost.NOTES, cost.COPIES_START, cost.COPIES_END, cost.copies_table),
    ],
    ids=["cost", "copies"],
)
def test_documentation_has_the_measured_numbers(page, start, end, table):
    inside = page.read_text().split(start)[1].split(end)[0].strip()
    assert inside == table(json.loads(cost.RESULTS.read_text()))


def test_catalogue_steps_do_not_import_tensorflow():
    code = "import sys, " + ", ".join(f"lib.{name}" for name in CATALOGUE_STEPS)
    code += "; assert not {'tensorflow', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
