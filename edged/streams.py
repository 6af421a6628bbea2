"""Standard streams for a program that was started with some of them closed."""

from __future__ import annotations

import os
import sys


def stand_in() -> None:
    """Puts /dev/null in the place of standard streams that are closed, which Python gives as None.

    In their order, so that each gets its own descriptor back: what is opened later must not be written to as output.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115 - stays
