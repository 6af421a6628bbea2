"""A daemon of a test that hardly waits before it fetches, keeps or tries again; imported as `hostile_site` is."""

from edged.update import course, peaks, policy

policy._FETCH_DELAY_S = 0.01
peaks._GATHER_S = 0.01
course._PAUSE_S = 0.2
