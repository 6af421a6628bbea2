"""An interpreter like this one, whose edged has the engines of `hostile_site` besides its own.

Workers run isolated (`-I`), so that nothing in the environment reaches them; `.pth` files do.
"""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def hostile_interpreter(folder: Path) -> Path:
    """Lays out a virtual environment in `folder` and gives its interpreter."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    base = Path(sys.base_prefix) / "bin" / version
    (folder / "bin/python").symlink_to(base)
    (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    packages = [path for path in sys.path if path.endswith("site-packages")]
    lines = [
        str(TESTS.parent),
        *packages,
        str(TESTS),
        str(TESTS / "support/hostile_site"),
        "import hostile_site",
        "import power_site",
    ]
    (site / "hostile.pth").write_text("\n".join(lines) + "\n")
    return folder / "bin/python"
