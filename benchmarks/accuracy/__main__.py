# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What ``python benchmarks/accuracy`` runs."""

import sys
from pathlib import Path

if __name__ == '__main__':
    # Python puts this folder there: it holds the modules, not the package.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

    from accuracy.command import main

    main()
