"""The engine that reaches for what is not its own, with a thread from its import on: its workers are spawned."""

import support.threaded_engine  # noqa: F401 - for its thread
from support.reaching_engine import open_session

__all__ = ["open_session"]
