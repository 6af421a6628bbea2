"""What can go wrong for the person at the command line, and the exit status that tells it to a program."""

from __future__ import annotations

from edged.errors import Code, EdgedError

DONE = 0
NO = 1
"""The answer is no: not ready, a check failed, a request was refused."""
WRONG_USAGE = 2
NOT_RUNNING = 3
"""edged is not running, or does not answer."""
NOT_PERMITTED = 4
INTERRUPTED = 130
"""Ended by Ctrl-C: what shells make of SIGINT."""

_STATUS = {Code.NOT_RUNNING: NOT_RUNNING, Code.NOT_PERMITTED: NOT_PERMITTED}


class WrongInputError(EdgedError):
    """What was given to edgectl cannot be used, so nothing was asked."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(Code.INVALID_ARGUMENT, message, hint)


class RefusedError(EdgedError):
    """The daemon's own no, in its own words; `word` is its code, which may be newer than this edgectl."""

    def __init__(self, word: str, message: str) -> None:
        super().__init__(Code(word) if word in set(Code) else Code.INTERNAL, message)
        self.word = word


def exit_status(error: EdgedError) -> int:
    """The exit status that `error` ends edgectl with."""
    if isinstance(error, WrongInputError):
        return WRONG_USAGE
    if isinstance(error, RefusedError):
        return NO
    return _STATUS.get(error.code, NO)


def word(error: EdgedError) -> str:
    """The stable code that programs read."""
    return error.word if isinstance(error, RefusedError) else error.code.value
