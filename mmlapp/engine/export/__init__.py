# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Files that programs run which know nothing of pruning, or of PyTorch."""
