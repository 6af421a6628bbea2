#!/bin/sh
# greenboot, required: what served under the last deployment must serve under this one, or this one is red.
# On a deployment that has been green before it always passes: a bad model is never the operating system's fault.
exec /usr/bin/edgectl boot check --wait 180
