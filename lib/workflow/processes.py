"""Processes: how they end."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

from lib.schema import InputError

CHAIN = "SPIRAL_ARMS_CHAIN"
"""Environment variable that says that standard input is a pipe which the chain holds open."""


def end_with_the_chain() -> None:
    """End this process when the chain that started it, if one did, has ended.

    Standard input is then a pipe that the chain alone holds open and never writes to, so that
    reading it returns when the chain is gone. Snakemake, in between, would go on without it, and
    tells its jobs nothing when it is killed itself.
    """
    if CHAIN in os.environ:
        threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()


def exit_status(work: Callable, *arguments) -> int:
    """Do the work of a command; 1 after an error that its user can mend, which is printed."""
    try:
        work(*arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0
