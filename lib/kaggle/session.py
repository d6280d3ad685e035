"""What a session on Kaggle does, besides the chain itself.

Kaggle mounts attached files, read-only, below ``/kaggle/input`` ($KAGGLE_INPUT), and keeps what is
in ``/kaggle/working`` ($KAGGLE_WORKING) at the end. The project lies elsewhere ($SPIRAL_ARMS_ROOT),
with a link to the results, so that links to attached images and downloads are not kept too.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

import lib
from lib import profiles, receipts, steps, sweeps
from lib.download.kaggle import input_folder
from lib.kaggle.packages import PROJECT
from lib.paths import project_root, resolve
from lib.schema import InputError
from lib.steps import StepError


def working_folder() -> Path:
    """Folder that Kaggle keeps: ``$KAGGLE_WORKING``, or ``/kaggle/working``."""
    return Path(os.environ.get("KAGGLE_WORKING", "/kaggle/working"))


def lay_out() -> None:
    """Put notebooks, profiles and Snakefile from the wheel under the project root.

    Raises
    ------
    InputError
        If `lib` was not installed from a wheel that `lib.kaggle.bundle` built.
    """
    project = Path(lib.__path__[0]) / PROJECT
    if not project.is_dir():
        raise InputError(f"{project} is missing: install the wheel of `python -m lib.kaggle build`")
    root = project_root()
    shutil.copytree(project, root, dirs_exist_ok=True)
    (working_folder() / "runs").mkdir(parents=True, exist_ok=True)
    if not (root / "runs").exists():
        (root / "runs").symlink_to(working_folder() / "runs", target_is_directory=True)


def earlier_runs(profile: profiles.Profile) -> list[Path]:
    """Folders of this profile's run in the attached outputs of earlier sessions."""
    inputs = input_folder()
    places = (f"*/{profile.run_dir}", f"notebooks/*/*/{profile.run_dir}")
    return [path for place in places for path in sorted(inputs.glob(place)) if path.is_dir()]


def restore(profile: profiles.Profile) -> list[str]:
    """Take over what earlier sessions did: whole steps, and the state of steps they began.

    A step is taken if its receipt says that it was made of the same notebook, parameters and
    inputs, and if its files are as the receipt says.

    Returns
    -------
    list of str
        Steps that need not be run.
    """
    run_dir, earlier = resolve(profile.run_dir), earlier_runs(profile)
    done = []
    for step in profile.outputs:
        source = next((r / step for r in [run_dir, *earlier] if _is_done(profile, r, step)), None)
        if source is None:
            shutil.rmtree(run_dir / step, ignore_errors=True)
            continue
        if source != run_dir / step:
            shutil.copytree(source, run_dir / step, dirs_exist_ok=True)
        # Snakemake goes by the order of the times, which copies do not keep.
        (run_dir / step / receipts.NAME).touch()
        done.append(step)
    for run in earlier:
        begun = [*run.iterdir(), *run.glob(f"{sweeps.FOLDER}/*/*")]
        for folder in (f for f in begun if f.is_dir() and f.name != sweeps.FOLDER):
            place = folder.relative_to(run)
            if place.as_posix() not in profile.outputs and not (run_dir / place).exists():
                shutil.copytree(folder, run_dir / place)
    return done


def _is_done(profile: profiles.Profile, run: Path, output: str) -> bool:
    """Whether a run holds a step's result that this profile would make of the steps before."""
    step, parameters = profile.made_by(output)
    try:
        inputs = steps.inputs_of(profile, output, receipts.read(run / output)["inputs"])
        needed = [str(resolve(profile.run_dir) / o / receipts.NAME) for o in inputs.values()]
        mark = steps.fingerprint(step, parameters, needed)
    except InputError:
        return False
    return steps.has_done(run / output, mark)


def run_chain(profile: profiles.Profile, until: str = "", hours: float = 11.0) -> bool:
    """Run the chain for some time at most.

    Whatever is under way when time is up is killed: a step's state is whole on disk at any moment,
    and the next session goes on from there.

    Parameters
    ----------
    profile : Profile
    until : str
        Step to end with; empty for the whole chain.
    hours : float
        Time to stop after.

    Returns
    -------
    bool
        Whether the chain came to its end.

    Raises
    ------
    StepError
        If a step failed.
    """
    command = [sys.executable, "-m", "lib.steps", "chain", "--profile", profile.name]
    command += ["--until", until] if until else []
    out_of_time = threading.Event()
    with subprocess.Popen(
        command,
        cwd=project_root(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as chain:

        def stop() -> None:
            out_of_time.set()
            os.killpg(chain.pid, signal.SIGKILL)

        timer = threading.Timer(3600 * hours, stop)
        timer.start()
        # The output ends when the last process, down to the notebooks' kernels, is gone.
        for line in chain.stdout:
            print(line, end="", flush=True)
        timer.cancel()
    if out_of_time.is_set():
        print(f"stopped after {hours:g} h; the next session goes on from here")
        return False
    if chain.returncode:
        raise StepError(f"profile {profile.name} is not complete: see the message(s) above")
    return True


def progress(profile: profiles.Profile) -> pd.DataFrame:
    """How far each step is: `step`, `state`, `minutes` and `last line` of its log."""
    return pd.DataFrame(_progress(profile), columns=["step", "state", "minutes", "last line"])


def _progress(profile: profiles.Profile) -> Iterator[tuple[str, str, float | None, str]]:
    for step in profile.outputs:
        folder = resolve(profile.run_dir) / step
        partial = folder.with_name(folder.name + ".partial")
        minutes, state, at = None, "not begun", folder
        if (folder / receipts.NAME).exists():
            minutes, state = round(receipts.read(folder)["wall_seconds"] / 60, 1), "done"
        elif partial.is_dir():
            state, at = "begun", partial
        log = (
            (at / steps.LOG).read_text(encoding="utf-8").splitlines()
            if (at / steps.LOG).exists()
            else []
        )
        # A kernel whose session was stopped says so in the log.
        said = [line for line in log if not line.startswith("[IPKernelApp]")]
        yield step, state, minutes, said[-1] if said else ""
