"""What the image says of itself."""

from datetime import UTC, datetime

import pytest

from edged.update.environment import build_time


@pytest.fixture
def built(tmp_path):
    path = tmp_path / "usr/lib/edged/built"
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize("text", ["2026-01-02T03:04:05Z\n", "2026-01-02T04:04:05+01:00", "2026-01-02T03:04:05"])
def test_the_build_time_is_read_with_its_zone(tmp_path, built, text):
    built.write_text(text)
    assert build_time(tmp_path) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "\0", "2026-13-01T00:00:00Z", "99999-01-01", "0001-01-01T00:00:00+14:00"]
)
def test_what_is_no_time_is_none(tmp_path, built, text):
    built.write_text(text)
    assert build_time(tmp_path) is None


def test_an_image_that_does_not_say_has_none(tmp_path):
    assert build_time(tmp_path) is None
