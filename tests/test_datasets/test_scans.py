# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The cut of the scans, against scikit-learn."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest
import sklearn.datasets
from sklearn.datasets import load_digits

from mmlapp.datasets.scans import _all_scans, load_scans


@pytest.fixture
def unread() -> Iterator[None]:
    """Nothing is known of the file, nor of what a test makes of it."""
    _all_scans.cache_clear()
    yield
    _all_scans.cache_clear()


def as_set(scans: np.ndarray) -> set[bytes]:
    return {scan.tobytes() for scan in scans}


def test_sizes() -> None:
    train, train_labels = load_scans('train')
    test, test_labels = load_scans('test')
    assert train.shape == (1438, 8, 8)
    assert test.shape == (359, 8, 8)
    assert train_labels.shape == (1438,)
    assert test_labels.shape == (359,)


def test_splits_are_disjoint_and_complete() -> None:
    """No two of the 1,797 scans are the same, so that sets can tell."""
    train, test = (as_set(load_scans(s)[0]) for s in ('train', 'test'))
    assert len(train) == 1438
    assert len(test) == 359
    assert not train & test


def test_every_scan_has_the_label_of_sklearn() -> None:
    digits = load_digits()
    grey = (digits.images * 255 / 16).round().astype(np.uint8)
    known = {
        scan.tobytes(): label
        for scan, label in zip(grey, digits.target, strict=True)
    }
    for split in ('train', 'test'):
        for scan, label in zip(*load_scans(split), strict=True):
            assert known[scan.tobytes()] == label


def test_stratified() -> None:
    train = np.bincount(load_scans('train')[1])
    test = np.bincount(load_scans('test')[1])
    assert np.abs(test / (train + test) - 0.2).max() < 0.005


def test_bad_split() -> None:
    with pytest.raises(ValueError, match="split='val': expected one of"):
        load_scans('val')


def test_the_file_is_read_once_and_every_split_is_a_copy(
    monkeypatch: pytest.MonkeyPatch, unread: None
) -> None:
    reads = []
    monkeypatch.setattr(
        sklearn.datasets,
        'load_digits',
        lambda: reads.append(1) or load_digits(),
    )
    for split in ('train', 'test', 'train'):
        for part in load_scans(split):
            assert part.any()
            part[:] = 0
    assert reads == [1]


def test_missing_sklearn(
    monkeypatch: pytest.MonkeyPatch, unread: None
) -> None:
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match='pip install scikit-learn'):
        load_scans('train')
