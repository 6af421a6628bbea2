"""A daemon of a test that does not wait before it fetches again; imported as `hostile_site` is."""

from edged.update import policy

policy._FETCH_DELAY_S = 0.01
