# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Errors and warnings of the core."""


class PruningError(ValueError):
    """Something that was asked for cannot be done; the text says why."""


class LayerRefusedError(PruningError):
    """A layer can have no branch; the text says why. Others may have one."""


class PruningWarning(UserWarning):
    """Something that was asked for has no or little effect."""
