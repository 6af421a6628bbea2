"""What a worker is told to load or to build, changed."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from edged.worker.messages import Build, Load

_Asked = TypeVar("_Asked", Load, Build)


def changed(asked: _Asked, **changes: Any) -> _Asked:
    """The same but for `changes`: of itself, of its source, or of how that is opened."""
    of_source = _taken(asked.source, changes)
    of_options = _taken(asked.source.options, changes)
    options = msgspec.structs.replace(asked.source.options, **of_options)
    source = msgspec.structs.replace(asked.source, **of_source, options=options)
    return msgspec.structs.replace(asked, **changes, source=source)


def _taken(of: msgspec.Struct, changes: dict[str, Any]) -> dict[str, Any]:
    return {name: changes.pop(name) for name in of.__struct_fields__ if name in changes}
