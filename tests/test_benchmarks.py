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


def test_every_section_gives_its_numbers(report):
    found, printed = report
    assert set(found["sections"]) == {
        "frozen_backbone",
        "frozen_accuracy",
        "inputs",
        "fine_tuning",
        "prediction",
        "memory",
        "start_up",
    }
    for rows in found["sections"].values():
        assert rows
        for row in rows:
            numbers = [v for v in row.values() if isinstance(v, float) and v == v]
            assert numbers and all(abs(v) < float("inf") for v in numbers)
    assert found["machine"]["processors"] and "commit" in found["git"]
    assert "From JPEG to probabilities" in printed


def test_views_as_many_as_epochs_are_the_reference(report):
    rows = report[0]["sections"]["frozen_accuracy"]
    assert rows[-1]["views K"] == rows[-1]["epochs"]
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


def test_documentation_has_the_measured_cost():
    text = cost.PAGE.read_text()
    inside = text.split(cost.START)[1].split(cost.END)[0].strip()
    assert inside == cost.table(json.loads(cost.RESULTS.read_text()))


def test_catalogue_steps_do_not_import_tensorflow():
    code = "import sys, " + ", ".join(f"lib.{name}" for name in CATALOGUE_STEPS)
    code += "; assert not {'tensorflow', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
