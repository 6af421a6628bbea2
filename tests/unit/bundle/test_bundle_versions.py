"""Versions of engines, as they call themselves, against specifiers."""

from __future__ import annotations

import pytest

from edged.bundle.versions import fault, satisfies


@pytest.mark.parametrize(
    ("version", "specifiers", "expected"),
    [
        ("1.20.0", "", True),
        ("no number", "", True),
        ("1.20.0", ">=1.20,<2", True),
        ("1.19.2", ">=1.20,<2", False),
        ("1.9", ">=1.20", False),
        ("2.0", ">=1.20,<2", False),
        ("1.20", "==1.20.0", True),
        ("1.20.1", "!=1.20.1", False),
        ("1.20.1", ">1.20.1", False),
        ("1.20.1", "<=1.20.1", True),
        ("1.24", "~=1.20", True),
        ("2.1", "~=1.20", False),
        ("1.20.9", "==1.20.*", True),
        ("1.21.0.dev20260101", ">=1.20", True),
        ("1.20.0rc1", ">=1.20", False),
        ("1.20.0+cu12", "==1.20.0", True),
        ("10.3.0.26", ">=10.3,<11", True),
        ("2026.3.0-19807-1a2b3c4d-releases/2026/3", ">=2024.6", True),
        ("2026.3.0-19807-1a2b3c4d", "<=2026.3.0", True),
        ("2026.3.0-19807", "==2026.3.0", True),
        ("v1.20.0-custom build", ">=1.20", True),
        ("no number", ">=1.20", False),
        ("1.20", "nonsense", False),
    ],
)
def test_versions_are_held_against_specifiers(version, specifiers, expected):
    assert satisfies(version, specifiers) is expected


@pytest.mark.parametrize("specifiers", ["", ">=1.20", ">=1.20,<2", " >= 1.20 , < 2 ", "~=1.4.2", "==1.*", "!=1.3"])
def test_specifiers_in_order_have_no_fault(specifiers):
    assert fault(specifiers) == ""


@pytest.mark.parametrize("specifiers", ["1.20", ">=", "=>1.20", ">=1.20;<2", ">=1.20 <2", "latest", ">=1.x", "~=1"])
def test_other_text_has_a_fault(specifiers):
    assert "no version specifier" in fault(specifiers)
