# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The handwritten digits of scikit-learn, cut once and for all in two."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from mmlapp.core import PruningError

SPLITS = ('train', 'test')
CLASSES = tuple(str(digit) for digit in range(10))
BRIGHTEST = 16  # the scans have 17 levels of grey
TEST_EVERY = 5


def load_scans(split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Scans and labels of one split.

    Every fifth scan of each class, from its third on, is a test scan: 1,438
    scans to train on, 359 to test on, the same ones everywhere.

    Args:
        split (str): ``'train'`` or ``'test'``.

    Returns:
        tuple[np.ndarray, np.ndarray]: Scans with values from 0 to 255, shape
        is ``[N, 8, 8]``, and labels, shape is ``[N]``.

    Raises:
        PruningError: If there is no such split.
        ImportError: If scikit-learn is not installed.

    Examples:
        >>> from mmlapp.datasets.scans import load_scans
        >>> scans, labels = load_scans('test')
        >>> scans.shape, labels[:5].tolist()
        ((359, 8, 8), [0, 1, 2, 3, 4])
    """
    if split not in SPLITS:
        raise PruningError(f'split={split!r}: expected one of {SPLITS}')
    scans, labels = _all_scans()
    in_test = is_test_scan(labels)
    chosen = in_test if split == 'test' else ~in_test
    # Copies: what a data set does to its images stays in it.
    return scans[chosen], labels[chosen]


@cache
def _all_scans() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Scans ``[1797, 8, 8]`` and labels, read once: their file is text."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            'the digits come with scikit-learn, which is not installed: '
            'run `pip install scikit-learn`'
        ) from error
    digits = load_digits()
    grey = digits.images * (255 / BRIGHTEST)
    return grey.round().astype(np.uint8), digits.target


def is_test_scan(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True for the scans of the test split, stratified by label."""
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        mask[members[TEST_EVERY // 2 :: TEST_EVERY]] = True
    return mask
