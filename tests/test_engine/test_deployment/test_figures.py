# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What figures are of a model is tested where it is deployed."""

from mmlapp.engine.deployment.figures import Figure, file_sizes


def test_a_ratio_is_after_by_before():
    assert Figure('FLOPs', 4, 1).ratio == 0.25


def test_sizes_of_files(tmp_path):
    before, after = tmp_path / 'epoch_1.pth', tmp_path / 'slim.pth'
    before.write_bytes(b'1234')
    after.write_bytes(b'1')
    assert file_sizes(str(before), after) == Figure(
        'bytes of the checkpoint', 4, 1
    )
