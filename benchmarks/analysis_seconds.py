# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Processor seconds of the analysis of networks of torchvision, as JSON.

    python benchmarks/analysis_seconds.py resnet18 resnet50

Imports nothing but ``analyse``, so that it times any commit's: that of the
tree which PYTHONPATH names. ``trace_time.py --reference`` does.
"""

from __future__ import annotations

import gc
import json
import sys
import time

import torch
import torchvision

from mmlapp.core import analyse


def seconds(name: str) -> float:
    """Processor time of the second analysis, on one thread."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    image = torch.rand(1, 3, 224, 224)
    analyse(model, image)  # the first one warms up
    # What torch and others keep is left out of collections: one of all of it
    # takes a fifth of an analysis, and falls into one of three by chance.
    gc.collect()
    gc.freeze()
    started = time.process_time()
    analyse(model, image)
    return time.process_time() - started


if __name__ == '__main__':
    torch.set_num_threads(1)
    json.dump({name: seconds(name) for name in sys.argv[1:]}, sys.stdout)
