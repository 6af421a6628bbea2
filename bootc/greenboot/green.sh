#!/bin/sh
# greenboot, after a green boot: notes that, and remembers what serves under this deployment. Models that take longer
# stay remembered as they were, and edged-boot.service looks again when this boot is left.
exec /usr/bin/edgectl boot record --wait 60
