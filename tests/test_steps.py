"""Steps, profiles and receipts, on small notebooks in a checkout of their own."""

import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import yaml
from conftest import ROOT, chain

from lib.schema import InputError
from lib.workflow import code, profiles, receipts, steps

NOTEBOOK = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # {number}  A step

# %% tags=["parameters"]
# where results go
run_dir = "runs/mock"
# folder below it
output = "{name}"
# how many rows
rows = 3
# a fraction
fraction = 0.5
# what to do instead of ending well
trouble = ""
# where it starts from
weights = "none"

# %%
import os, signal, time
import pandas as pd
from lib import paths
from lib.schema import InputError
out = paths.output_folder(run_dir, output)
print("already there:", sorted(p.name for p in out.glob("*.csv")))

# %%
pd.DataFrame({{"row": range(rows)}}).to_csv(out / "table.csv", index=False)
if trouble == "input":
    raise InputError("column x of table.csv is missing: add it")
if trouble == "bug":
    1 / 0
if trouble == "kill" and not (out / "killed.csv").exists():
    (out / "killed.csv").write_text("once")
    os.kill(os.getpid(), signal.SIGKILL)
if trouble == "sleep":
    time.sleep(60)
if trouble == "thread":
    import threading
    threading.Thread(target=time.sleep, args=(600,)).start()
if trouble == "exit":
    import atexit
    atexit.register(time.sleep, 600)
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A project root with two small notebooks and a profile."""
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    for name in ("01_first", "02_second"):
        text = NOTEBOOK.format(number=name[:2], name=name)
        (tmp_path / "notebooks" / f"{name}.py").write_text(text)
    write_profile(tmp_path, "mock", {"steps": ["01_first", "02_second"]})
    monkeypatch.setenv("SPIRAL_ARMS_ROOT", str(tmp_path))
    return tmp_path


def write_profile(root, name, content):
    path = root / "notebooks" / "profiles" / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"description": "a test", **content}))


def test_a_profile_applies_shared_and_own_parameters(checkout):
    write_profile(
        checkout,
        "p",
        {"steps": ["01_first", "02_second"], "all": {"rows": 5}, "02_second": {"fraction": 1}},
    )
    profile = profiles.load("p")
    assert profile.overrides["01_first"] == {"run_dir": "runs/p", "rows": 5}
    assert profile.overrides["02_second"] == {"run_dir": "runs/p", "rows": 5, "fraction": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"steps": ["01_first"], "ephocs": 3}, "unknown key.*ephocs"),
        ({"steps": ["01_first"], "01_first": {"rosw": 3}}, "01_first has no parameter 'rosw'"),
        ({"steps": ["01_first"], "01_first": {"rows": "3"}}, "rows = '3' is of type str.*int"),
        ({"steps": ["01_first"], "01_first": {"rows": True}}, "rows = True is of type bool"),
        ({"steps": ["01_first"], "all": {"sede": 3}}, "no notebook of the profile has.*sede"),
        ({"steps": ["03_third"]}, "no notebook '03_third': choose one of 01_first, 02_second"),
        ({}, "names no `steps`"),
        (
            {"steps": ["01_first"], "sweeps": {"01_first": []}},
            r"unknown key\(s\) sweeps: keys are description, steps, skipped, all",
        ),
    ],
)
def test_a_wrong_profile_is_refused_by_name(checkout, content, message):
    write_profile(checkout, "p", content)
    with pytest.raises(InputError, match=message):
        profiles.load("p")


def test_a_number_that_yaml_takes_for_text_is_refused(monkeypatch):
    monkeypatch.setattr(profiles, "default_parameters", lambda step: {"limit": None})
    profiles.check_parameters("a", yaml.safe_load("limit: 1.0e-4"))
    with pytest.raises(InputError, match="limit = '1e-4' is text to YAML 1.1"):
        profiles.check_parameters("a", yaml.safe_load("limit: 1e-4"))


def test_unknown_profile_lists_the_known_ones(checkout):
    with pytest.raises(InputError, match="no profile 'x': choose one of mock"):
        profiles.load("x")


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-4", 1e-4), ("1E+2", 100.0), (".75", 0.75), ("2", 2), ("-3.0", -3.0)],
)
def test_numbers_in_a_profile_are_what_they_look_like(checkout, written, value):
    path = checkout / "notebooks" / "profiles" / "p.yaml"
    path.write_text(f"steps: [01_first]\n01_first: {{fraction: {written}}}\n")
    found = profiles.load("p").overrides["01_first"]["fraction"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("written", ["no", "0123", "2024-01-01", "12:30", "1_000", "on"])
def test_words_in_a_profile_stay_words(checkout, written):
    path = checkout / "notebooks" / "profiles" / "p.yaml"
    path.write_text(f"steps: [01_first]\n01_first: {{trouble: {written}}}\n")
    assert profiles.load("p").overrides["01_first"]["trouble"] == written
    path.write_text(f"steps: [01_first]\n01_first: {{rows: {written}}}\n")
    with pytest.raises(InputError, match=f"rows = '{written}' .*write 12, not 012"):
        profiles.load("p")


@pytest.mark.parametrize(
    "value",
    [np.float64(0.5), np.int64(3), datetime.date(2024, 1, 1), [np.float32(1)], {1: 2}, {3}, b"a"],
)
def test_a_parameter_that_would_not_arrive_is_refused(checkout, value):
    """papermill writes what it does not know as a text."""
    path = checkout / "notebooks" / "01_first.py"
    path.write_text(path.read_text().replace("fraction = 0.5", "fraction = 0.5\nany = None"))
    profiles.check_parameters("01_first", {"any": [None, {"a": [1, 2.5, True]}]})
    with pytest.raises(InputError, match=r"any = .*would not arrive as it is: give float"):
        profiles.check_parameters("01_first", {"any": value})
    with pytest.raises(InputError, match="fraction = None is of type NoneType"):
        profiles.check_parameters("01_first", {"fraction": None})


@pytest.mark.parametrize(
    "line",
    [
        "rows: int = 3",
        'rows: Literal["a"] = "a"',
        "rows = np.int64(3)",
        "rows = {3}",
        "a, b = 1, 2",
    ],
)
def test_a_default_that_is_no_literal_is_refused_by_its_line(checkout, line):
    path = checkout / "notebooks" / "01_first.py"
    path.write_text(path.read_text().replace("rows = 3", line))
    with pytest.raises(InputError, match="must hold only `name = literal` lines, without"):
        profiles.default_parameters("01_first")


@pytest.mark.chain
def test_texts_are_utf_8_whatever_the_locale(checkout):
    source = checkout / "notebooks" / "01_first.py"
    source.write_text(source.read_text() + 'print("größer")\n', encoding="utf-8")
    text = "description: größer\nsteps: [01_first]\n01_first: {trouble: à côté}\n"
    (checkout / "notebooks" / "profiles" / "mock.yaml").write_text(text, encoding="utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "lib.workflow.steps", "run", "01_first"],
        env={**os.environ, **plain, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    folder = checkout / "runs" / "mock" / "01_first"
    assert receipts.read(folder)["parameters"]["trouble"] == "à côté"
    assert "größer" in (folder / "log.txt").read_text(encoding="utf-8")


def test_parameters_cell_must_hold_literals_and_be_one(checkout):
    path = checkout / "notebooks" / "01_first.py"
    whole = path.read_text()
    for other in ("", '[markdown] tags=["parameters"]', 'tags=["parameters2"]'):
        path.write_text(whole.replace('tags=["parameters"]', other))
        with pytest.raises(InputError, match="0 cells tagged"):
            profiles.default_parameters("01_first")


@pytest.mark.chain
def test_hardware_has_a_cell_before_the_parameters_and_can_be_set(checkout):
    path = checkout / "notebooks" / "01_first.py"
    cell = '# %% tags=["hardware"]\njit = False\n\n'
    before, after = path.read_text().split('# %% tags=["parameters"]')
    path.write_text(f'{before}{cell}# %% tags=["parameters"]{after}\nassert jit\n')
    assert profiles.default_parameters("01_first")["jit"] is False
    assert receipts.read(steps.run("01_first", {"jit": True}))["parameters"]["jit"] is True
    path.write_text(f'{before}# %% tags=["parameters"]{after}\n{cell}')
    with pytest.raises(InputError, match="put the cell tagged `hardware` before"):
        profiles.default_parameters("01_first")


@pytest.mark.chain
def test_a_step_leaves_results_receipt_and_notebook(checkout, capsys):
    folder = steps.run("01_first", {"rows": 4}, label="01")
    receipt = receipts.read(folder)
    assert receipt["rows"] == {"table.csv": 4}
    assert receipt["parameters"]["rows"] == 4 and receipt["parameters"]["fraction"] == 0.5
    assert receipt["outputs"]["table.csv"] == receipts.sha256(folder / "table.csv")
    assert {"01_first.ipynb", "log.txt", "table.csv"} == set(receipt["outputs"])
    assert receipt["packages"]["papermill"] and receipt["peak_memory_mb"] > 10
    assert "01 | already there: []" in capsys.readouterr().out
    assert not folder.with_name("01_first.partial").exists()

    assert receipts.verify(folder) == []
    (folder / "table.csv").write_text("row\n1\n")
    (folder / "log.txt").unlink()
    (folder / "new.txt").write_text("")
    assert receipts.verify(folder) == [
        "01_first/log.txt is missing",
        "01_first/table.csv has changed",
        "01_first/new.txt was added",
    ]


@pytest.mark.chain
def test_a_receipt_has_the_memory_of_its_own_kernel(checkout):
    """Not that of the process which started it, which its children inherit."""
    program = "large = b'1' * 10**9; del large; "
    program += "from lib.workflow import steps; steps.run('01_first', {})"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    receipt = receipts.read(checkout / "runs" / "mock" / "01_first")
    assert 50 < receipt["peak_memory_mb"] < 700


@pytest.mark.chain
@pytest.mark.parametrize("trouble", ["thread", "exit"])
def test_a_kernel_that_does_not_end_by_itself_is_ended(checkout, trouble):
    start = time.time()
    folder = steps.run("01_first", {"trouble": trouble})
    assert receipts.verify(folder) == [] and time.time() - start < 100


@pytest.mark.chain
@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("input", "refused its input: column x of table.csv is missing: add it"),
        ("bug", "failed in cell .* with ZeroDivisionError"),
        ("kill", "kernel died.*Run the same command again"),
    ],
)
def test_trouble_is_told_and_leaves_earlier_results(checkout, trouble, message):
    folder = steps.run("01_first", {"rows": 4})
    before = receipts.hash_folder(folder)
    with pytest.raises(steps.StepError, match=f"(?s){message}"):
        steps.run("01_first", {"rows": 5, "trouble": trouble})
    assert receipts.hash_folder(folder) == before
    failed = folder.with_name("01_first.partial") / "01_first.failed.ipynb"
    assert failed.exists()
    assert any(cell["cell_type"] == "code" for cell in json.loads(failed.read_text())["cells"])


@pytest.mark.chain
def test_a_killed_step_finds_what_it_had_saved_and_others_do_not(checkout, capsys, monkeypatch):
    with pytest.raises(steps.StepError, match="kernel died"):
        steps.run("01_first", {"trouble": "kill"}, label="01")
    steps.run("01_first", {"trouble": "kill"}, label="01")
    assert "already there: ['killed.csv', 'table.csv']" in capsys.readouterr().out
    with pytest.raises(steps.StepError):
        steps.run("02_second", {"trouble": "kill"}, label="02")
    source = checkout / "notebooks" / "02_second.py"
    source.write_text(source.read_text() + "\n# a new version of the notebook\n")
    with pytest.raises(steps.StepError):
        steps.run("02_second", {"trouble": "kill"}, label="02")
    monkeypatch.setattr(code, "closure", lambda notebook: {"lib/paths.py": "mended"})
    with pytest.raises(steps.StepError):
        steps.run("02_second", {"trouble": "kill"}, label="02")
    assert capsys.readouterr().out.count("02 | already there: []") == 3


@pytest.mark.chain
def test_a_wrong_parameter_is_refused_before_anything_starts(checkout):
    with pytest.raises(InputError, match="01_first has no parameter 'row'"):
        steps.run("01_first", {"row": 4})
    assert not (checkout / "runs").exists()


@pytest.mark.parametrize("text", ['{"step": ', "[]", '{"step": "01_first"}', "\x00" * 20])
def test_a_damaged_receipt_is_refused(tmp_path, text):
    with pytest.raises(InputError, match="has not ended"):
        receipts.read(tmp_path)
    (tmp_path / receipts.NAME).write_text(text)
    with pytest.raises(InputError, match="is damaged"):
        receipts.read(tmp_path)
    assert len(receipts.unfit(tmp_path)) == 1


def test_a_receipt_names_the_code_that_the_step_began_with(checkout, monkeypatch):
    commit = {"commit": "as it began", "dirty": False}
    monkeypatch.setattr(receipts, "git_state", lambda: dict(commit))
    monkeypatch.setattr(receipts, "hash_library", lambda: commit["commit"])
    monkeypatch.setattr(steps, "execute", lambda *_: commit.update(commit="checked out meanwhile"))
    receipt = receipts.read(steps.run("01_first", {}))
    assert receipt["git"]["commit"] == receipt["library"] == "as it began"


def test_bundled_weights_are_inputs_of_a_step_that_starts_from_them(checkout):
    file = checkout / "data" / "weights" / "net.safetensors"
    file.parent.mkdir(parents=True)
    file.write_text("weights")
    assert steps.fingerprint("01_first", {}, [])["inputs"] == {}
    before = steps.fingerprint("01_first", {"weights": "mock"}, [])
    assert before["inputs"] == {file.name: receipts.sha256(file)}
    other = file.with_name("other.safetensors")
    other.write_text("from votes")
    other.with_suffix(".json").write_text('{"source": "votes"}')
    assert steps.fingerprint("01_first", {"weights": "mock"}, []) == before
    assert profiles.weights_files("01_first", {"weights": "votes"}) == [other]
    assert profiles.weights_files("01_first", {"real_views": 5}) == [file]
    source = checkout / "notebooks" / "02_second.py"
    source.write_text(source.read_text() + 'network = "ArmNet", "votes"\n')
    assert profiles.weights_files("02_second", {"weights": "none"}) == [other]
    file.write_text("others")
    assert steps.fingerprint("01_first", {"weights": "mock"}, []) != before


@pytest.mark.parametrize("given", ["zoobot/checkpoint", "zoobot", "zoobot/checkpoint.index"])
def test_a_checkpoint_given_by_path_is_an_input(checkout, given):
    (checkout / "zoobot").mkdir()
    for name in ("checkpoint.index", "checkpoint.data-00000-of-00001"):
        (checkout / "zoobot" / name).write_text(name)
    asked = {"weights": f"zoobot-checkpoint:{given}"}
    before = steps.fingerprint("01_first", asked, [])
    assert before["inputs"].keys() == {p.name for p in (checkout / "zoobot").iterdir()}
    (checkout / "zoobot" / "checkpoint.index").write_text("of another network")
    assert steps.fingerprint("01_first", asked, []) != before


def test_notebook_09_reads_the_weights_of_armnet():
    files = profiles.weights_files(
        "09_model_comparison", profiles.load("mock").settings("01_sample_selection")
    )
    assert [path.name for path in files] == ["armnet-3ch.safetensors"]


@pytest.mark.chain
def test_verify_names_everything_that_is_not_as_the_receipts_say(checkout, capsys):
    first = steps.run("01_first", {})
    second = steps.run("02_second", {}, [str(first / receipts.NAME)])
    assert steps.main(["verify"]) == 0
    assert "all 2 steps are as their receipts say" in capsys.readouterr().out

    steps.run("01_first", {"rows": 4})
    (second / "table.csv").write_text("row\n1\n")
    assert steps.main(["verify"]) == 1
    said = capsys.readouterr().err
    assert "02_second/table.csv has changed" in said
    assert "02_second was made from another result of 01_first" in said

    (first / receipts.NAME).unlink()
    assert steps.main(["verify"]) == 1
    said = capsys.readouterr().err
    assert f"{first / receipts.NAME} is missing" in said
    assert "02_second/table.csv has changed" in said, "what comes after is looked at too"


def test_the_survey_folder_is_checked_before_the_chain_starts(capsys):
    assert steps.main(["chain", "--profile", "challenge", "--data", "no/such/folder"]) == 1
    message = capsys.readouterr().err
    assert "no/such/folder" in message and "DATA=" in message


AWKWARD = """it's {a} "b" $(touch x) #c"""


@pytest.mark.chain
def test_a_folder_of_data_may_have_any_name(checkout):
    source = checkout / "notebooks" / "01_first.py"
    step = "01_sample_selection"
    text = source.read_text().replace("01_first", step)
    text = text.replace("# how many rows", 'data_dir = ""\n# how many rows')
    source.with_name(f"{step}.py").write_text(text)
    write_profile(checkout, "mock", {"steps": [step]})
    shutil.copy(ROOT / "Snakefile", checkout)
    data = checkout / AWKWARD
    data.mkdir()
    (data / "table.csv").write_text("a")
    done = chain(checkout, "mock", "--data", str(data))
    assert done.returncode == 0, done.stdout + done.stderr
    receipt = receipts.read(checkout / "runs" / "mock" / step)
    assert receipt["parameters"]["data_dir"] == str(data)
    assert receipt["inputs"]["table.csv"] == receipts.sha256(data / "table.csv")
    assert not list(checkout.rglob("x"))


def test_make_hands_paths_over_as_they_are(tmp_path):
    echo = tmp_path / "python"
    echo.write_text("#!/bin/sh\nfor word; do printf '%s\\n' \"$word\"; done\n")
    echo.chmod(0o755)
    make = ["make", "--silent", "--old-file=.venv/.ready", f"BIN={tmp_path}"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}

    def words(*arguments, **variables):
        return subprocess.run(
            [*make, *arguments],
            cwd=ROOT,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()

    for target in ("run", "data"):
        assert AWKWARD in words(target, f"DATA={AWKWARD}") and AWKWARD in words(
            target, DATA=AWKWARD
        )
        assert "--data" not in words(target)
    paths = {name: f"{name} of {AWKWARD}" for name in ("MODEL", "IMAGES", "OUT")}
    assert set(paths.values()) <= set(words("predict", *(f"{k}={v}" for k, v in paths.items())))
    assert not (ROOT / "x").exists()


@pytest.mark.chain
def test_killing_the_runner_leaves_nothing_that_looks_finished(checkout):
    command = [
        sys.executable,
        "-c",
        "from lib.workflow import steps; steps.run('01_first', {'trouble': 'sleep'})",
    ]
    runner = subprocess.Popen(command, cwd=ROOT, env={**os.environ})
    partial = checkout / "runs" / "mock" / "01_first.partial"
    limit = time.time() + 60
    while not (partial / "table.csv").exists() and time.time() < limit:
        time.sleep(0.2)
    kernels = psutil.Process(runner.pid).children(recursive=True)
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    for kernel in kernels:
        kernel.kill()
    assert (partial / "table.csv").exists()
    assert not (checkout / "runs" / "mock" / "01_first").exists()


LOOP = """
# %% tags=["trainings"]
trainings = paths.resolve(run_dir) / "trainings"
trainings.mkdir(exist_ok=True)
k, n = map(int, part.split("/"))
for seed in range(5)[k - 1 :: n]:
    with open(trainings / f"{seed}.txt", "a") as file:
        file.write(part)

# %%
(out / "found.txt").write_text(" ".join(p.stem for p in sorted(trainings.iterdir())))
"""


@pytest.mark.chain
def test_a_part_runs_up_to_the_trainings_and_leaves_nothing_else(checkout, capsys):
    source = checkout / "notebooks" / "01_first.py"
    part = "# part of the trainings\npart = '1/1'\n"
    source.write_text(
        source.read_text().replace("# how many rows", part + "# how many rows") + LOOP
    )
    final = checkout / "runs" / "mock" / "01_first"
    assert steps.main(["run", "01_first", "--part", "2/2"]) == 0
    assert "[1/2] 01_first, part 2/2 done" in capsys.readouterr().out
    trainings = final.with_name("trainings")
    assert sorted(p.name for p in trainings.iterdir()) == ["1.txt", "3.txt"]
    assert [p.name for p in final.parent.iterdir() if not p.name.startswith(".")] == ["trainings"]

    steps.run_part("01_first", {"rows": 2}, "1/2")
    assert sorted(p.name for p in trainings.iterdir()) == [f"{seed}.txt" for seed in range(5)]
    assert (trainings / "1.txt").read_text() == "2/2", "another part has done it again"
    assert not final.exists()


@pytest.mark.chain
def test_a_part_that_fails_keeps_its_notebook_to_be_read(checkout):
    source = checkout / "notebooks" / "01_first.py"
    source.write_text(
        source.read_text().replace("rows = 3", "rows = 3\n# a part\npart = ''") + LOOP
    )
    with pytest.raises(steps.StepError, match=r"ZeroDivisionError(.|\n)*part-1-of-2"):
        steps.run_part("01_first", {"trouble": "bug"}, "1/2")
    folder = checkout / "runs" / "mock" / "01_first.part-1-of-2"
    assert (folder / "01_first.failed.ipynb").is_file()
    steps.run_part("01_first", {}, "1/2")
    assert not folder.exists() and folder.with_name("trainings").is_dir()


def test_a_notebook_without_trainings_is_not_divided(checkout):
    with pytest.raises(InputError, match="01_first has no parameter 'part'"):
        steps.run_part("01_first", {}, "1/2")
    source = checkout / "notebooks" / "01_first.py"
    source.write_text(source.read_text().replace("rows = 3", "rows = 3\n# a part\npart = ''"))
    with pytest.raises(InputError, match="01_first has no cell tagged 'trainings'"):
        steps.run_part("01_first", {}, "1/2")
    assert not (checkout / "runs").exists()
