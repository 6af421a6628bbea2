"""A kernel that knows nothing of Landlock, as far as edged can tell; imported as `hostile_site` is."""

from edged.worker import landlock

landlock.abi = lambda: 0
