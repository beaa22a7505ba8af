# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The command of mmdeploy that makes a whole detector, with its NMS."""

from __future__ import annotations

import shlex
from pathlib import Path

from torch import nn

from ..models.ground_truth import belongs_to

# Package and whether it has masks: config below the folder `configs`.
CONFIGS = {
    ('mmpretrain', False): 'mmpretrain/classification_onnxruntime_dynamic.py',
    ('mmdet', False): 'mmdet/detection/detection_onnxruntime_dynamic.py',
    ('mmdet', True): 'mmdet/instance-seg/instance-seg_onnxruntime_dynamic.py',
}


def mmdeploy_command(
    model: nn.Module, config: str | Path, checkpoint: str | Path, out: Path
) -> str:
    """Returns a command line for a clone of (onedl-)mmdeploy.

    Args:
        model (nn.Module): The model.
        config (str or Path): Its config.
        checkpoint (str or Path): Its checkpoint.
        out (Path): What was exported, beside which the result goes.

    Returns:
        str: Empty for models of other packages.
    """
    masks = bool(getattr(model, 'with_mask', False))
    found = [
        path
        for (package, masked), path in CONFIGS.items()
        if belongs_to(model, package) and masked == masks
    ]
    if not found:
        return ''
    words = [
        *('python', '$MMDEPLOY/tools/deploy.py'),
        *(f'$MMDEPLOY/configs/{found[0]}', str(config), str(checkpoint)),
        *('IMAGE.jpg', '--work-dir', f'{out}_mmdeploy', '--device', 'cpu'),
    ]
    # The shell of the user puts the path of the clone in place of $MMDEPLOY.
    quoted = (w if w.startswith('$') else shlex.quote(w) for w in words)
    return ' '.join([*quoted, '--dump-info'])
