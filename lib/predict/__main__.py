"""Command line: predict the arm numbers of a survey with a trained network."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from lib.images import Lupton
from lib.paths import project_root
from lib.predict import package, survey
from lib.schema import InputError


def _plan(arguments: argparse.Namespace) -> Path:
    path = survey.plan(
        *(arguments.model, arguments.images, arguments.out),
        root=arguments.root,
        views=arguments.views,
        shard_size=arguments.shard_size,
        lupton=Lupton(arguments.stretch, arguments.softening),
    )
    content = survey.read_plan(path)
    print(f"{content['galaxies']:,} images in {content['shards']:,} shards: {path}", flush=True)
    return path


def _run(arguments: argparse.Namespace) -> None:
    """Plan, and let Snakemake predict the shards that are not there and gather them."""
    path = _plan(arguments)
    command = [sys.executable, "-m", "snakemake", "--cores", str(arguments.cores), "--nolock"]
    command += ["--quiet", "all", "--rerun-incomplete", "--keep-going", "predict_gather"]
    command += ["--config", f"predict={path}"]
    if subprocess.run(command, cwd=project_root()).returncode:
        raise InputError(f"the catalogue in {path.parent} is not complete: see the messages above")
    catalogue = path.parent / "catalogue.parquet"
    counts = survey.summary(catalogue)
    print(
        f"{counts['predicted']:,} of {counts['galaxies']:,} images predicted, "
        f"{counts['flagged']:,} of them unlike the training images: {catalogue}"
    )
    for reason, number in counts["reasons"].items():
        print(f"  {number:,} not read: {reason}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.predict", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(name, function, text, *positional):
        added = commands.add_parser(name, help=text)
        added.set_defaults(function=function)
        for argument, kind in positional:
            added.add_argument(argument, type=kind)
        return added

    run = command("run", _run, "predict a survey on this machine")
    run.add_argument("--cores", type=int, default=os.cpu_count())
    for added in (run, command("plan", _plan, "only write down what is to be predicted")):
        added.add_argument("--model", required=True, help="training step or exported model")
        added.add_argument("--images", required=True, help="folder, .txt, .parquet, .csv or .fits")
        added.add_argument("--out", required=True, help="folder of the prediction")
        added.add_argument("--root", help="folder that relative paths in the list start from")
        added.add_argument("--views", type=int, default=1, help="1, or 8 rotations and mirrors")
        added.add_argument("--shard-size", type=int, default=10_000, help="images per shard")
        added.add_argument("--stretch", type=float, help="of FITS images; measured by default")
        added.add_argument("--softening", type=float, default=Lupton.softening, help="Lupton's Q")
    plan = ("plan", Path)
    command(
        *("shard", lambda a: survey.predict_shard(a.plan, a.number, a.threads)),
        *("predict one shard", plan, ("number", int)),
    ).add_argument("--threads", type=int)
    command("gather", lambda a: survey.gather(a.plan), "put finished shards together", plan)
    command(
        *("export", lambda a: package.export(a.model, a.out), "export a training step"),
        *(("model", Path), ("out", Path)),
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Command line of this module; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.function(arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
