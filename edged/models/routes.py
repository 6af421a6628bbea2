"""Who answers for a model now. Pure: it knows names and revisions, nothing of workers."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from edged.errors import Code, EdgedError


class Route(msgspec.Struct, frozen=True):
    """The revision that answers when none is named, and all that may be named."""

    serving: int
    loaded: tuple[int, ...]
    known: tuple[int, ...]
    fallback: int = 0
    """The revision that answers where the serving one fails, while that is new; 0: none."""

    def other(self, revision: int) -> int:
        """Who may answer a request that names no revision where `revision` failed; 0: nobody."""
        return self.fallback if revision == self.serving else self.serving


def parse_version(model: str, version: str) -> int | None:
    """The revision that a request names; None when it names none. Raises EdgedError (invalid_argument)."""
    if not version:
        return None
    if not (version.isascii() and version.isdigit() and len(version) <= 16) or version[0] == "0":
        raise EdgedError(
            Code.INVALID_ARGUMENT,
            f"model {_short(model)}: {version[:32]!r} is no version",
            "leave model_version empty, or give a revision such as 7",
        )
    return int(version)


def resolve(routes: Mapping[str, Route], model: str, version: str) -> tuple[str, int]:
    """The model and revision that answer. Raises EdgedError when there is no such model or revision."""
    route = routes.get(model)
    if route is None:
        names = ", ".join(sorted(routes)[:10]) or "none"
        raise EdgedError(Code.MODEL_NOT_FOUND, f"there is no model {_short(model)}", f"models here: {names}")
    revision = parse_version(model, version)
    if revision is None:
        return model, route.serving
    if revision in route.loaded:
        return model, revision
    if revision in route.known or revision < route.serving:
        raise EdgedError(
            Code.REVISION_NOT_SERVED,
            f"revision {revision} of model {_short(model)} is not served any more",
            f"revision {route.serving} is; leave model_version empty to follow it",
        )
    raise EdgedError(
        Code.REVISION_NOT_FOUND,
        f"model {_short(model)} has no revision {revision}",
        f"revision {route.serving} serves; leave model_version empty to follow it",
    )


def _short(model: str) -> str:
    """A name for a message: a request may bring one of megabytes."""
    return repr(model[:64])
