"""`python -m concurrent_log_handler`: does logging from many processes work on this disk?"""

from __future__ import annotations

import sys

from .selfcheck._command import main

if __name__ == "__main__":
    sys.exit(main())
