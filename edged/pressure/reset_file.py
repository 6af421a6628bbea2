"""The child that resets an accelerator: it may hang in the driver, where no signal reaches it.

python -I -m edged.pressure.reset_file PATH
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Writes to the file; the exit status is 1, and the reason printed, where that fails."""
    try:
        with Path(sys.argv[1]).open("wb", buffering=0) as file:
            file.write(b"1\n")
    except OSError as error:
        sys.exit(f"the accelerator was not reset: {error}")


if __name__ == "__main__":
    main()
