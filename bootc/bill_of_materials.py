"""Writes what an environment holds as an SPDX 2.3 document: `bill_of_materials.py ENVIRONMENT FILE`.

Uses nothing but the standard library, since it runs while an image is built. The operating system's own packages are
told by its package manager and are not listed here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any


def document(environment: Path, created: datetime) -> dict[str, Any]:
    """The SPDX document of the packages in `environment`; the same packages give the same document."""
    folders = [str(path) for path in environment.glob("lib*/python3*/site-packages")]
    found = sorted(distributions(path=folders), key=lambda each: each.name.lower())
    packages = [_package(each) for each in found]
    listed = json.dumps(packages, sort_keys=True).encode()
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": "edged",
        "documentNamespace": f"urn:edged:sbom:{hashlib.sha256(listed).hexdigest()}",
        "creationInfo": {"created": created.strftime("%Y-%m-%dT%H:%M:%SZ"), "creators": ["Tool: edged"]},
        "packages": packages,
        "relationships": [
            {
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": package["SPDXID"],
            }
            for package in packages
        ],
    }


def _package(found: Distribution) -> dict[str, Any]:
    name = re.sub(r"[-_.]+", "-", found.name).lower()  # the normal form of a package's name, as in its purl
    return {
        "SPDXID": f"SPDXRef-{name}",
        "name": found.name,
        "versionInfo": found.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        # A licence that is no SPDX expression is told as it stands, and asserted nowhere.
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": found.metadata.get("License-Expression") or "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": f"pkg:pypi/{name}@{found.version}",
            }
        ],
    }


def main() -> None:
    """Writes the document; $SOURCE_DATE_EPOCH is its date where it is set."""
    environment, target = map(Path, sys.argv[1:])
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    created = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document(environment, created), indent=1) + "\n")


if __name__ == "__main__":
    main()
