# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Files at random: refused with a reason, or read as they were written."""

from dataclasses import replace

import pytest
from fuzzing import files
from fuzzing.files import find_file_fault, whole

from mmlapp.engine.checkpoints.reading import read_trained

pytestmark = pytest.mark.filterwarnings('ignore')


def look_at(seeds, path):
    found = [find_file_fault(seed, path) for seed in seeds]
    assert not [fault for fault in found if fault]


def test_files_at_random(tmp_path):
    look_at(range(500), tmp_path / 'a.pth')


@pytest.mark.slow
@pytest.mark.parametrize('first', range(500, 5500, 500))
def test_many_files_at_random(first, tmp_path):
    look_at(range(first, first + 500), tmp_path / 'a.pth')


@pytest.fixture
def whole_files(monkeypatch):
    """Files that nothing happens to."""
    for name in ('mutate_file', 'mutate_weights'):
        monkeypatch.setattr(files, name, lambda made, seed: made)
    monkeypatch.setattr(files, 'mutate_plan', lambda made, seed: made.encode())


def test_whole_files_are_read_to_the_end(whole_files, tmp_path):
    for seed, kind in enumerate(files.KINDS):
        kind(whole(0), seed, tmp_path / 'a.pth')


def test_other_weights_are_found(whole_files, tmp_path, monkeypatch):
    def read(path):
        found = read_trained(path)
        weights = {name: w + 1 for name, w in found.weights.items()}
        return replace(found, weights=weights)

    monkeypatch.setattr(files, 'read_trained', read)
    assert 'is another one' in find_file_fault(2, tmp_path / 'a.pth')
