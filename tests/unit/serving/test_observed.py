"""What a worker says of its results is counted where it can be, and believed no further."""

from __future__ import annotations

import pytest
from support.bundles import digits_bundle

from edged.bundle.folder import read_manifest
from edged.bundle.manifest import Drift
from edged.serving.observed import Observed
from edged.worker.messages import Counted
