"""Processes that end with the one they work for, however it ends."""

from __future__ import annotations

import os
import threading

CHAIN = "SPIRAL_ARMS_CHAIN"
"""Environment variable that says that standard input is a pipe which the chain holds open."""


def end_with_the_chain() -> None:
    """End this process when the chain that started it, if one did, has ended.

    Standard input is then a pipe that the chain alone holds open and never writes to, so that
    reading it returns when the chain is gone. Snakemake, in between, would go on without it, and
    tells its jobs nothing when it is killed itself.
    """
    if CHAIN in os.environ:
        end_with(0)


def end_with(descriptor: int) -> None:
    """End this process when nobody holds the other end of a pipe or a socket any more."""
    threading.Thread(target=_wait_for_the_end, args=(descriptor,), daemon=True).start()


def _wait_for_the_end(descriptor: int) -> None:
    os.read(descriptor, 1)
    os._exit(1)
