"""Run one notebook as a step of the chain, or the whole chain through Snakemake.

``python -m lib.workflow.steps run 01_sample_selection --profile mock`` runs one notebook by
papermill in a process of its own; ``python -m lib.workflow.steps chain --profile mock`` lets
Snakemake run all that are not fresh; ``python -m lib.workflow.steps verify --profile mock`` hashes
a finished run again.

A step works in a staging folder beside its own; only when the notebook has ended well are the
receipt written and the staging folder moved into place, so an earlier result is kept until a
better one is whole. The staging folder of a killed step stays, and a step that is started again
with the same source, parameters and inputs finds there what it had saved (see `lib.training`).

Whatever is killed, the processes below it end too: a step ends with the chain that started it, and
a kernel with its step (ipykernel looks once a second). A step that is started again waits until
nobody is left who could write into its staging folder.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TextIO

import jupytext
import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from lib.paths import atomic, project_root, remove_checkpoints, remove_unfinished, resolve
from lib.schema import InputError
from lib.workflow import code, profiles, receipts
from lib.workflow.processes import CHAIN, end_with_the_chain, exit_status

FINGERPRINT = "fingerprint.json"
LOG = "log.txt"
PATIENCE = 60
"""Seconds that a step waits for the processes of a killed run of it to end."""
MEMORY_KEPT = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}
"""Let processes that steps start keep the memory that arrays had (glibc): images are simulated in
three quarters of the time when it need not be asked for again."""


class StepError(InputError):
    """A notebook stopped before its end; the message says why and where to read on."""


class _Progress:
    """Stream that copies a notebook's printed lines to its log and, indented, to the console.

    An empty label keeps them from the console.
    """

    def __init__(self, log: TextIO, label: str):
        self.log, self.label = log, label

    def write(self, text: str) -> None:
        self.log.write(text)
        self.log.flush()
        for line in text.splitlines():
            if line.strip() and self.label:
                print(f"    {self.label} | {line}", flush=True)

    def flush(self) -> None:
        self.log.flush()


@contextmanager
def _locked(path: Path, owner: str, patience: float) -> Iterator[None]:
    """Hold the lock on a file, made if needed; it belongs to all who inherited the open file.

    Such a lock ends with the last process that has it, however it ends.
    """
    deadline = time.time() + patience
    with open(path, "a", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.time() >= deadline:
                    raise InputError(f"{owner} is under way (it holds {path})") from None
                time.sleep(0.2)
        yield


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(number) for number in range(len(receipts.machine()["gpus"]))]
    return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]


@contextmanager
def _gpus_of_its_own(folder: Path, devices: str) -> Iterator[None]:
    """Where there are several GPUs, keep other steps from the one, or all, that this step uses.

    Of several the kernel sees only one, unless it trains on "all" devices.
    """
    gpus = visible_gpus()
    locks = {gpu: folder / f".gpu-{gpu}.lock" for gpu in gpus}
    with ExitStack() as held:
        if len(gpus) > 1 and devices == "all":
            for lock in locks.values():
                held.enter_context(_locked(lock, "a step", float("inf")))
        while len(gpus) > 1 and devices != "all":
            with suppress(InputError):  # its lock is held
                held.enter_context(_locked(locks[gpus[0]], "a step", 0))
                os.environ["CUDA_VISIBLE_DEVICES"] = gpus[0]
                break
            gpus.append(gpus.pop(0))
            time.sleep(0.2)
        yield


@contextmanager
def _kernel_messages_to(log: TextIO) -> Iterator[None]:
    """Send what libraries write to file descriptor 2 to the log: kernels inherit it."""
    console = os.dup(2)
    os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(console, 2)
        os.close(console)


def fingerprint(step: str, parameters: dict, after: list[str]) -> dict[str, object]:
    """What decides a step's result: its notebook, the code of `lib`, parameters and what it reads.

    That is what the steps before it made, and the files of weights that it starts from.
    """
    settings = profiles.default_parameters(step) | parameters
    weights = {p.name: receipts.sha256(p) for p in profiles.weights_files(step, settings)}
    before = [Path(path).parent for path in after]
    return {
        "source": receipts.sha256(profiles.notebook_path(step)),
        "code": code.closure(profiles.notebook_path(step)),
        "parameters": settings,
        "inputs": weights | {folder.name: receipts.hash_outputs(folder) for folder in before},
    }


def changed_code(folder: str | Path, step: str) -> list[str]:
    """Files that a step would run, or has run, and that are not as they were when it began.

    Its notebook is compared as it is, files of `lib` by what they do (`lib.workflow.code`).
    """
    receipt, notebook = receipts.read(folder), profiles.notebook_path(step)
    same = receipt.get("inputs", {}).get("notebook") == receipts.sha256(notebook)
    changed = [] if same else [f"notebooks/{notebook.name}"]
    if receipt.get("library") == receipts.hash_library():  # nothing needs to be parsed
        return changed
    then, now = receipt.get("code", {}), code.closure(notebook)
    return changed + sorted(n for n in then.keys() | now.keys() if then.get(n) != now.get(n))


def has_done(folder: str | Path, mark: dict[str, object]) -> bool:
    """Whether a folder holds a whole, unchanged result of the step with this fingerprint."""
    try:
        receipt = receipts.read(folder)
    except InputError:
        return False
    needed = {**mark["inputs"], "notebook": mark["source"]}
    return (
        receipt["parameters"] == mark["parameters"]
        and receipt.get("code") == mark["code"]
        and needed.items() <= receipt["inputs"].items()
        and not receipts.verify(folder)
    )


def _stage(staging: Path, mark: dict[str, object]) -> None:
    """Keep in a staging folder what a killed run of the same step left; else empty it."""
    try:
        same = json.loads((staging / FINGERPRINT).read_text(encoding="utf-8")) == mark
    except (FileNotFoundError, json.JSONDecodeError):
        same = False
    if same:
        remove_unfinished(staging)
        return
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    with atomic(staging / FINGERPRINT) as temporary:
        temporary.write_text(json.dumps(mark), encoding="utf-8")


def _move_into_place(staging: Path, final: Path) -> None:
    """Let a whole staging folder take the place of the step's earlier result."""
    old = final.with_name(final.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    os.replace(staging, final)
    shutil.rmtree(old, ignore_errors=True)


def _explain(step: str, error: Exception, failed: Path) -> str:
    """Why a notebook stopped, in plain words."""
    if isinstance(error, PapermillExecutionError) and error.ename == "InputError":
        return f"{step} refused its input: {error.evalue}\n    (notebook: {failed})"
    if isinstance(error, PapermillExecutionError):
        return (
            f"{step} failed in cell {error.exec_count} with {error.ename}: {error.evalue}\n"
            f"    (read the notebook with its traceback: {failed})"
        )
    return (
        f"{step}: the notebook's kernel died ({error}). It was killed from outside, or the machine "
        f"ran out of memory. Run the same command again to go on.\n    (notebook: {failed})"
    )


def _manager(temporary: str, peaks: list[int]) -> type:
    """A kernel manager whose kernel has a temporary folder of its own.

    It notes the most memory that the kernel had, in kB, before it ends it. What the system says of
    ended children will not do: they inherit the largest value of the process that started them.
    """

    class Manager(AsyncKernelManager):
        async def start_kernel(self, **kwargs) -> None:
            await super().start_kernel(env={**os.environ, "TMPDIR": temporary}, **kwargs)

        async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
            with suppress(OSError):  # where there is no /proc
                status = Path(f"/proc/{self.provisioner.pid}/status").read_text(encoding="utf-8")
                peaks.extend(map(int, re.findall(r"VmHWM:\s+(\d+) kB", status)))
            await super().shutdown_kernel(now=now, restart=restart)

    return Manager


def execute(
    step: str,
    parameters: dict,
    staging: Path,
    label: str,
    notebook: nbformat.NotebookNode | None = None,
) -> int | None:
    """Run a notebook by papermill; its executed copy and its log end up in `staging`.

    `notebook` has the cells to run, where these are not all of the step's. Returns the most memory
    that its kernel had at a time, resident, in MiB; None if it can't be told. Raises StepError if a
    cell raised or the kernel died; the failed notebook is kept and named.
    """
    target, running = staging / f"{step}.ipynb", staging / f".{step}.running.ipynb"
    source, failed = staging / f".{step}.source.ipynb", staging / f"{step}.failed.ipynb"
    nbformat.write(notebook or jupytext.read(profiles.notebook_path(step)), source)
    failed.unlink(missing_ok=True)
    os.environ["SPIRAL_ARMS_OUTPUT"] = str(staging)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    peaks: list[int] = []
    try:
        with open(staging / LOG, "a", encoding="utf-8") as log, _kernel_messages_to(log):
            fcntl.flock(log, fcntl.LOCK_EX)  # the kernel, which inherits the file, holds it too
            # What a kernel leaves behind, above all one that is killed, goes with its folder.
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
                papermill.execute_notebook(
                    source,
                    running,
                    parameters,
                    kernel_name="python3",
                    progress_bar=False,
                    stdout_file=_Progress(log, label),
                    stderr_file=log,
                    cwd=str(project_root() / "notebooks"),
                    kernel_manager_class=_manager(temporary, peaks),
                )
    except (PapermillExecutionError, DeadKernelError) as error:
        if running.exists():
            os.replace(running, failed)
        raise StepError(_explain(step, error, failed)) from error
    finally:
        source.unlink(missing_ok=True)
        os.environ.pop("SPIRAL_ARMS_OUTPUT")
    os.replace(running, target)
    return peaks[-1] // 1024 if peaks else None


def run(
    step: str,
    parameters: dict[str, object],
    after: list[str] | None = None,
    label: str | None = None,
) -> Path:
    """Run one notebook and put its results into ``<run_dir>/<output>``, the folder returned.

    `parameters` are those that differ from the notebook's defaults, `after` the receipts of the
    steps that it reads; `label` names the step in the console's progress lines, empty for none.
    Raises InputError before anything starts if a parameter is unknown or mistyped, StepError if the
    notebook stopped; an earlier result of the step is then left as it was.
    """
    profiles.check_parameters(step, parameters)
    mark = fingerprint(step, parameters, after or [])
    final = resolve(mark["parameters"]["run_dir"]) / mark["parameters"]["output"]
    staging = final.with_name(final.name + ".partial")
    with _alone_in(staging, step):
        if not has_done(staging, mark):  # as if the step was killed just before its end
            _run_in_staging(step, parameters, mark, step if label is None else label, staging)
        _move_into_place(staging, final)
    return final


def run_part(step: str, parameters: dict[str, object], part: str) -> None:
    """Run a notebook up to its trainings, of which it does a part; they stay in their own folders.

    The ordinary run of the step, after all parts, finds them there. `part` is ``k/n``. Raises
    InputError before anything starts if the notebook has no cell tagged ``trainings`` or no
    parameter `part`; StepError if it stopped; what it has trained stays.
    """
    parameters = {**parameters, "part": part}
    profiles.check_parameters(step, parameters)
    notebook = _up_to(jupytext.read(profiles.notebook_path(step)), "trainings", step)
    settings = profiles.default_parameters(step) | parameters
    folder = resolve(settings["run_dir"]) / f"{settings['output']}.part-{part.replace('/', '-of-')}"
    with _alone_in(folder, f"part {part} of {step}"):
        folder.mkdir(exist_ok=True)
        execute(step, parameters, folder, f"{step[:2]} {part}", notebook)
        shutil.rmtree(folder)


@contextmanager
def _alone_in(folder: Path, name: str) -> Iterator[None]:
    """Keep other runs out of a folder, after the kernel of a killed run, which holds its log."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        lock = folder.with_name(f".{folder.name}.lock")
        held.enter_context(_locked(lock, f"another run of {name}", PATIENCE))
        if (folder / LOG).exists():
            with _locked(folder / LOG, f"the kernel of a killed run of {name}", PATIENCE):
                pass
        yield


def _up_to(notebook: nbformat.NotebookNode, tag: str, step: str) -> nbformat.NotebookNode:
    """A notebook without what follows the last cell with a tag."""
    tagged = [i for i, c in enumerate(notebook.cells) if tag in c.metadata.get("tags", [])]
    if not tagged:
        raise InputError(f"{step} has no cell tagged {tag!r}: it cannot be divided into parts")
    notebook.cells = notebook.cells[: tagged[-1] + 1]
    return notebook


def _run_in_staging(step: str, parameters: dict, mark: dict, label: str, staging: Path) -> None:
    """Run a notebook in its staging folder, which nobody else uses, and write the receipt."""
    settings, start = mark["parameters"], time.time()
    _stage(staging, mark)
    # Code and data as the notebook finds them: a long run may outlast them.
    state = receipts.code_state()
    inputs = {**mark["inputs"], "notebook": mark["source"]}
    if settings.get("data_dir"):
        inputs |= receipts.hash_catalogues(settings["data_dir"])
    peak = execute(step, parameters, staging, label)
    (staging / FINGERPRINT).unlink()
    remove_checkpoints(staging)
    facts = {
        **state,
        "step": step,
        "code": mark["code"],
        "parameters": settings,
        "seed": settings.get("seed"),
        "inputs": inputs,
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "wall_seconds": round(time.time() - start, 1),
        "peak_memory_mb": peak,
    }
    receipts.write(staging, facts)


def _run_step(arguments: argparse.Namespace) -> None:
    """Run one step of a profile and print when it starts and ends."""
    profile, step = profiles.load(arguments.profile, arguments.data), arguments.step
    profile.check_step(step)
    parameters = profile.overrides[step]
    end_with_the_chain()
    os.environ.pop(CHAIN, None)
    name = step if arguments.part is None else f"{step}, part {arguments.part}"
    count = f"[{profile.steps.index(step) + 1}/{len(profile.steps)}]"
    print(f"{count} {name} ...", flush=True)
    start = time.time()
    run_dir = resolve(profile.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    devices = parameters.get("devices", "one")
    with _gpus_of_its_own(run_dir, devices) if arguments.gpu else nullcontext():
        if arguments.part is None:
            run(step, parameters, arguments.after, step[:2])
        else:
            run_part(step, parameters, arguments.part)
    where = "" if arguments.part else f" -> {profile.run_dir}/{step}"
    print(f"{count} {name} done in {time.time() - start:.0f} s{where}", flush=True)


def _check_data(profile: profiles.Profile) -> None:
    """Refuse a run whose survey folder is missing, unless the run itself makes it."""
    for step in profile.steps:
        folder = profile.settings(step).get("data_dir")
        if folder and not str(folder).startswith("runs/") and not resolve(folder).is_dir():
            raise InputError(
                f"the survey's folder {resolve(folder)} (parameter data_dir of {step}) is missing: "
                "give its place with DATA=..., or see data/README.md for where the data are"
            )


def _receipts(profile: profiles.Profile) -> dict[Path, int]:
    """Receipts that are there, and when each was written."""
    paths = [resolve(profile.run_dir) / step / receipts.NAME for step in profile.steps]
    return {path: path.stat().st_mtime_ns for path in paths if path.exists()}


def _set_aside_unfit(profile: profiles.Profile) -> None:
    """Remove the receipts of steps that are not whole, so that Snakemake runs these steps again.

    Snakemake itself only looks whether a receipt is there, and how old it is.
    """
    for path in _receipts(profile):
        if problems := receipts.unfit(path.parent):
            step = path.parent.name
            print(f"{step} is not whole and counts as not done: {problems[0]}", flush=True)
            path.unlink()


def _made_by_other_code(profile: profiles.Profile) -> list[str]:
    """Receipts of steps whose code has changed since; Snakemake knows of no code but notebooks."""
    found = []
    for path in _receipts(profile):
        step = path.parent.name
        if changed := changed_code(path.parent, step):
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            print(f"{step} is stale: {', '.join(changed[:3])}{more} changed since", flush=True)
            found.append(f"{profile.run_dir}/{step}/{receipts.NAME}")
    return found


def _run_chain(arguments: argparse.Namespace) -> None:
    """Let Snakemake run every step of a profile that is not fresh."""
    profile = profiles.load(arguments.profile, arguments.data)
    _check_data(profile)
    run_dir = resolve(profile.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    print(f"profile {profile.name}: {profile.description}", flush=True)
    for step, reason in profile.skipped.items():
        print(f"skipping {step}: {reason}", flush=True)
    gpus = len(visible_gpus())
    config = [f"profile={profile.name}", f"gpus={gpus}", f"parts={arguments.parts or max(1, gpus)}"]
    command = [sys.executable, "-m", "snakemake"]
    if arguments.until:
        profile.check_step(arguments.until)
        command += ["--until", f"{profile.run_dir}/{arguments.until}/{receipts.NAME}"]
    command += ["--cores", str(arguments.cores), "--quiet", "all", "--nolock", "--rerun-incomplete"]
    command += ["--keep-going", "--resources", f"gpu={max(1, gpus)}", "--config", *config]
    # A lock of the operating system ends with its owner, unlike Snakemake's own lock files, which
    # a killed run leaves behind.
    with _locked(run_dir / ".lock", f"another run of profile {profile.name}", patience=0):
        _set_aside_unfit(profile)
        if stale := _made_by_other_code(profile):
            command += ["--forcerun", *stale]
        before = _receipts(profile)
        environment = {**os.environ, **MEMORY_KEPT, CHAIN: "1"}
        environment[profiles.DATA] = arguments.data or ""
        with subprocess.Popen(
            command, cwd=project_root(), env=environment, stdin=subprocess.PIPE
        ) as snakemake:
            code = snakemake.wait()
    if code:
        raise StepError(f"profile {profile.name} is not complete: see the message(s) above")
    part = f" up to {arguments.until}" if arguments.until else ""
    if _receipts(profile) == before:
        print(f"nothing to do: every step of profile {profile.name}{part} is up to date")
    else:
        print(f"profile {profile.name}{part} is complete: see {profile.run_dir}")


def _verify_run(arguments: argparse.Namespace) -> None:
    """Hash the finished steps of a profile again and print what has changed."""
    profile = profiles.load(arguments.profile)
    if changes := [line for output in profile.steps for line in _changes(profile, output)]:
        raise StepError("not as the receipts say:\n  " + "\n  ".join(changes))
    print(f"profile {profile.name}: all {len(profile.steps)} steps are as their receipts say")


def _changes(profile: profiles.Profile, output: str) -> list[str]:
    """What of a step is not as its receipt says, what it read included."""
    run_dir = resolve(profile.run_dir)
    try:
        then = receipts.read(run_dir / output).get("inputs", {})
    except InputError as error:
        return [str(error)]
    changes = receipts.verify(run_dir / output)
    if changed := changed_code(run_dir / output, output):
        changes.append(f"{output} was made before a change of {', '.join(changed)}")
    for earlier in set(then) & set(profile.steps):
        # An earlier step without a receipt is named by itself.
        with suppress(InputError):
            if receipts.hash_outputs(run_dir / earlier) != then[earlier]:
                changes.append(f"{output} was made from another result of {earlier}")
    return changes


def main(argv: list[str] | None = None) -> int:
    """Command line of this module; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.workflow.steps", description=__doc__.split("\n")[0]
    )
    commands = parser.add_subparsers(required=True)
    for name, function, text in (
        ("run", _run_step, "run one notebook"),
        ("chain", _run_chain, "run every step that is not fresh"),
        ("verify", _verify_run, "compare a finished run with its receipts"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(function=function)
        command.add_argument("--profile", default="mock")
        if name != "verify":
            command.add_argument("--data", help="folder of the survey's data")
        if name == "run":
            command.add_argument("step", help="a notebook")
            command.add_argument("--part", help="k/n: the k-th of n parts of its trainings")
            command.add_argument("--after", nargs="*", default=[], help="receipts of earlier steps")
            command.add_argument("--gpu", action="store_true", help="take one of several GPUs")
        if name == "chain":
            command.add_argument("--until", metavar="STEP", help="run this step and what it needs")
            command.add_argument("--parts", type=int, help="jobs that share a loop of trainings")
            command.add_argument("--cores", type=int, default=os.cpu_count())
    arguments = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a test catches it
            stream.reconfigure(errors="replace")  # what a plain terminal cannot show
    return exit_status(arguments.function, arguments)


if __name__ == "__main__":
    sys.exit(main())
