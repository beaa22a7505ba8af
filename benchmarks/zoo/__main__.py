# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What ``python benchmarks/zoo`` runs."""

import sys
from pathlib import Path

# Python puts this folder there, which holds the modules but not the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from zoo.command import main  # noqa: E402

main()
