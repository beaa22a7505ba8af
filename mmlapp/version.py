# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The version of the package, in one place."""

__version__ = '0.1.0'
