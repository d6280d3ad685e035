"""The report of a run: numbers, page, and the command line."""

import json

import numpy as np
import pandas as pd
import pytest
from test_evaluation import write_run

from lib import evaluation as ev
from lib.schema import InputError
from lib.workflow import report


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "mock"
    run = ev.read_run(write_run(folder / "03_train_b0"))
    metrics = {"validation": {"n": 339, "scores": {"accuracy": 0.5}, "classes": {"1": {"f1": 0.1}}}}
    (folder / "03_train_b0" / "metrics.json").write_text(json.dumps(metrics))
    step = folder / report.COMPARISON
    step.mkdir()
    ev.compare_with_paper(run).to_csv(step / "comparison.csv", index=False)
    report.write_json(step / "report.json", {"runs": {"03_train_b0": {"p": np.float64(0.25)}}})
    (folder / "04_train_v2m.partial").mkdir()
    return folder


def test_plain_values_are_valid_json():
    table = pd.DataFrame({"a": [1, 2], "b": [0.5, np.nan], "c": [True, pd.NA]})
    data = {"n": np.int64(3), 1: [np.nan, np.inf, (1.5,)], "t": table, "s": pd.Series([1.0])}
    assert json.loads(json.dumps(report.plain(data), allow_nan=False)) == {
        "n": 3,
        "1": [None, None, [1.5]],
        "t": [{"a": 1, "b": 0.5, "c": True}, {"a": 2, "b": None, "c": None}],
        "s": [1.0],
    }


def test_flatten_keeps_all_numbers_and_nothing_else():
    data = {"a": {"b": 1, "c": True, "d": "x", "e": [1, "y", [2.5]]}, "f": 0.5, "g": None}
    assert report.flatten(data) == {"a.b": 1.0, "a.e.0": 1.0, "a.e.2.0": 2.5, "f": 0.5}


def test_rows_of_a_table_are_named_by_their_texts_where_these_tell_them_apart():
    rows = [{"role": "B0", "label": m, "n": n} for m, n in (("1", 5), ("2", 7))]
    assert report.flatten({"t": rows}) == {"t.B0 1.n": 5.0, "t.B0 2.n": 7.0}
    same = [{"role": "B0", "n": 5}, {"role": "B0", "n": 7}]
    assert report.flatten({"t": same}) == {"t.0.n": 5.0, "t.1.n": 7.0}


def test_report_gathers_numbers_and_comparison(run_dir):
    gathered = report.write(run_dir)
    assert list(gathered["steps"]) == ["03_train_b0", report.COMPARISON]
    assert report.flatten(gathered["steps"]) == {
        "03_train_b0.validation.n": 339,
        "03_train_b0.validation.scores.accuracy": 0.5,
        "03_train_b0.validation.classes.1.f1": 0.1,
        f"{report.COMPARISON}.runs.03_train_b0.p": 0.25,
    }
    assert gathered == json.loads((run_dir / "report.json").read_text())
    page = (run_dir / "report.md").read_text()
    table = report.beside_paper(gathered)
    cell = table[(table["m"] == "2") & (table["metric"] == "recall")].iloc[0]
    assert cell["paper"] == "0.856" and cell["inside"] in ("yes", "no")
    assert f"| 2 | recall | {cell['n']} | {cell['ours']} | {cell['interval']} | 0.856 |" in page


def test_what_is_undefined_stays_empty():
    row = {"run": "r", "protocol": "sound", "label": "all", "metric": "m", "n": 5, "ours": 0.5}
    row |= {"low": None, "high": None, "paper": None, "inside": None}
    shown = report.beside_paper({"comparison": [row]}).iloc[0]
    assert shown.to_list() == ["r", "sound", "all", "m", 5, "0.500", "", "", ""]


def test_the_page_of_each_run_is_printed(run_dir, tmp_path, capsys):
    other = tmp_path / "smoke"
    write_run(other / "03_train_b0", seed=1)
    (other / "03_train_b0" / "metrics.json").write_text('{"validation": {"n": 12}}')
    assert report.main([str(run_dir), str(other)]) == 0
    printed = capsys.readouterr().out
    assert "| 03_train_b0.validation.n | 339 |" in printed
    assert "| 03_train_b0.validation.n | 12 |" in printed
    assert printed.count("Beside the paper's Table 3") == 1


@pytest.mark.parametrize("content", [None, "{"])
def test_missing_and_damaged_runs_are_refused(tmp_path, content, capsys):
    if content:
        (tmp_path / "03_train_b0").mkdir()
        (tmp_path / "03_train_b0" / "metrics.json").write_text(content)
    with pytest.raises(InputError, match="damaged" if content else "no finished step"):
        report.gather(tmp_path)
    assert report.main([str(tmp_path)]) == 2
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "report.md").exists()
