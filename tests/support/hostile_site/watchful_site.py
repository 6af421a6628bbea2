"""A daemon of a test that looks at its sensors and its disk twice a second; imported as `hostile_site` is."""

from edged.pressure import monitor, sensors

monitor._AWAKE_S = monitor._WARM_S = monitor._ASLEEP_S = 0.5
sensors._SLOWLY_S = 0.0
