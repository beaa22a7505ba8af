# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
r"""Accuracy at a budget, of ways to a small network that are trained alike.

    python benchmarks/accuracy headline data/cifar10 --epochs 100 --amp \
        --device cuda --workers 12 --seeds 0 1 2 3 4
    python benchmarks/accuracy headline

``data/cifar10`` holds ``train/`` and ``test/`` with one folder of images per
class. What the file of results has is not run again. A bare PyTorch loop on
tensors held in memory: what is compared is the method, not a data pipeline.
"""
