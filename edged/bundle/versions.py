"""Versions of engines held against the specifiers of a variant."""

from __future__ import annotations

import re

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

_LEADING_NUMBERS = re.compile(r"v?(\d+(?:\.\d+)*)", re.ASCII)
# OpenVINO says 2026.3.0-19807-1a2b3c4d: what follows the dash is a build, which PEP 440 would take for a later release.
_WITH_BUILD = re.compile(r"v?(\d+(?:\.\d+)*)-\d", re.ASCII)


def fault(specifiers: str) -> str:
    """What is wrong with comma-separated PEP 440 specifiers; empty when nothing is."""
    try:
        SpecifierSet(specifiers)
    except InvalidSpecifier:
        return "holds something that is no version specifier"
    return ""


def satisfies(version: str, specifiers: str) -> bool:
    """Whether an engine's own version string satisfies comma-separated PEP 440 specifiers; none: any version does.

    A pre-release counts by its number, as any other. A version that begins with no number satisfies only the empty
    specifiers, and so does any version when the specifiers cannot be read.
    """
    if not specifiers.strip():
        return True
    parsed = _parse(version)
    try:
        return parsed is not None and SpecifierSet(specifiers).contains(parsed, prereleases=True)
    except InvalidSpecifier:
        return False


def _parse(version: str) -> Version | None:
    with_build = _WITH_BUILD.match(version)
    if with_build:
        return Version(with_build[1])
    try:
        return Version(version)
    except InvalidVersion:
        numbers = _LEADING_NUMBERS.match(version)
        return Version(numbers[1]) if numbers else None
