"""What the documents say is so: every code, every link, every command."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from edged.errors import Code
from edged.rpc.status import STATUS

REPO = Path(__file__).resolve().parents[2]
PAGES = [REPO / "README.md", REPO / "CHANGELOG.md", *sorted((REPO / "docs").rglob("*.md"))]


def table_of_codes() -> dict[str, str]:
    """Code → gRPC status, as docs/errors.md has them."""
    text = (REPO / "docs/errors.md").read_text()
    return dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.MULTILINE))


def test_every_error_code_is_documented_with_its_status():
    assert table_of_codes() == {code.value: STATUS[code].name for code in Code}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_links_within_the_project_lead_somewhere(page: Path):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_decisions_are_numbered_without_gaps():
    numbers = sorted(int(path.name[:4]) for path in (REPO / "docs/decisions").glob("0*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_lock_files_pin_every_package_with_hashes_and_name_no_index():
    for lock in [*REPO.glob("requirements*.lock"), REPO / "tests/tritonclient/requirements.lock"]:
        text = lock.read_text()
        pinned = re.findall(r"^([\w.-]+)==", text, re.MULTILINE)
        assert pinned, lock
        assert "://" not in text, lock
        for block in re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]:
            assert "--hash=sha256:" in block, f"{lock}: {block.splitlines()[0]}"


def test_what_the_project_needs_at_run_time_is_in_the_lock():
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    locked = set(re.findall(r"^([\w.-]+)==", (REPO / "requirements.lock").read_text(), re.MULTILINE))
    wanted = {re.split(r"[<>=\[ ]", each)[0] for each in project["dependencies"]}
    assert wanted <= locked
