#!/bin/sh
# greenboot, wanted: told, never a reason to roll back. What it finds stands in the log of the boot.
exec timeout 120 /usr/bin/edgectl doctor
