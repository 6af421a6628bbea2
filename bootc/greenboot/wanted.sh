#!/bin/sh
# greenboot, wanted: told, never a reason to roll back. A network that is away says nothing about a deployment.
exec timeout 60 /usr/bin/edgectl doctor --only network
