"""edgectl: what a person on the device asks edged, and does to bundles."""
