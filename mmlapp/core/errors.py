# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Errors and warnings of the core."""


class PruningError(ValueError):
    """Something that was asked for cannot be done; the text says why."""


class LayerRefusedError(PruningError):
    """A layer can have no branch; the text says why. Others may have one."""


class PruningWarning(UserWarning):
    """Something that was asked for has no or little effect."""


def misfits(error: RuntimeError) -> str:
    r"""Returns the first things that torch says do not fit, in one line.

    Args:
        error (RuntimeError): Of ``load_state_dict``, with a title and a line
            for each tensor.

    Examples:
        >>> misfits(RuntimeError('Title:\n\ta is wide.\n\tb lacks.'))
        'a is wide.; b lacks.'
    """
    lines = str(error).splitlines()[1:4]
    return f'{"; ".join(map(str.strip, lines)):.300}'
