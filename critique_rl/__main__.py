"""`python -m critique_rl`: what a launcher of several processes can start."""

from __future__ import annotations

import sys

from critique_rl.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
