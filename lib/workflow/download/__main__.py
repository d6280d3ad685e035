"""Command line: ``python -m lib.workflow.download --profile gz2``."""

from __future__ import annotations

import argparse
import sys

from lib.schema import InputError
from lib.workflow.download import fetch_profile


def main(argv: list[str] | None = None) -> int:
    """Command line of this package; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.workflow.download",
        description="Get the real files of a profile's survey.",
    )
    parser.add_argument("--profile", required=True)
    parser.add_argument("--data", help="folder of the survey's data")
    parser.add_argument(
        "--masses", action="store_true", help="get the stellar masses, even if no step uses them"
    )
    arguments = parser.parse_args(argv)
    try:
        fetch_profile(arguments.profile, arguments.data, masses=arguments.masses)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
