# SPDX-License-Identifier: MIT
"""python3 -m ser.gui"""

import sys

from .app import main

if __name__ == "__main__":
    sys.exit(main())
