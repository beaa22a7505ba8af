# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is known of particular blocks, one file per block.

Operators are followed by rules of their own, in ../rules. A file here is
needed only for a block whose attributes repeat the sizes of its tensors, or
that computes over its channels as a whole.
"""

# Importing a file registers its blocks; the name of a new one goes here.
from . import (
    attention,
    batch_norm,
    channel_norms,
    checkpointing,
    cross_stage,
    deformable,
    grn,
    hornet,
    l2_norm,
    layers,
    mixed_conv,
    recurrent,
    regions,
    repmlp,
    selective_kernel,
    swin,
)

__all__ = [
    'attention',
    'batch_norm',
    'channel_norms',
    'checkpointing',
    'cross_stage',
    'deformable',
    'grn',
    'hornet',
    'l2_norm',
    'layers',
    'mixed_conv',
    'recurrent',
    'regions',
    'repmlp',
    'selective_kernel',
    'swin',
]
