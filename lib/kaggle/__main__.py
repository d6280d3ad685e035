"""Command line: ``python -m lib.kaggle build --profile gz2 --out build/kaggle``."""

from __future__ import annotations

import argparse
import os
import sys

from lib.kaggle.bundle import build
from lib.schema import InputError


def main(argv: list[str] | None = None) -> int:
    """Command line of this package; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.kaggle")
    command = parser.add_subparsers(required=True).add_parser(
        "build", help="make the folders that `kaggle datasets` and `kaggle kernels push` take"
    )
    command.add_argument("--profile", default="gz2")
    command.add_argument("--out", default="build/kaggle", help="folder to make, emptied first")
    command.add_argument(
        "--user",
        default=os.environ.get("KAGGLE_USERNAME", ""),
        help="your name on Kaggle, by default $KAGGLE_USERNAME",
    )
    command.add_argument("--hours", type=float, default=11.0, help="time limit of a session")
    command.add_argument(
        "--no-internet", action="store_true", help="use attached files only, wheels included"
    )
    command.add_argument(
        "--resume",
        action="store_true",
        help="attach what earlier sessions of these kernels left, to go on from there",
    )
    arguments = parser.parse_args(argv)
    try:
        build(
            arguments.profile,
            arguments.out,
            arguments.user,
            hours=arguments.hours,
            internet=not arguments.no_internet,
            resume=arguments.resume,
        )
    except (InputError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
