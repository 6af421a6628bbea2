"""When what waits for the maintenance window is looked at."""

from __future__ import annotations

import re

from support.daemon import REPO


def test_what_waits_is_looked_at_soon_after_the_start_and_as_a_short_window_opens() -> None:
    """systemd.timer(5): a random delay is added to each trigger of a timer, and to it the accuracy, by default 1min."""
    timer = (REPO / "systemd/edged-os.timer").read_text()
    later = re.findall(r"^(RandomizedDelaySec|AccuracySec)=(.*)$", timer, re.MULTILINE)
    assert later == [("AccuracySec", "1min")]
