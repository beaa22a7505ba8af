# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Every convolution is timed at its own size."""

from layer_time import KINDS, measure, table


def test_every_convolution_is_timed(small):
    rows = measure(small, 2, 4)
    assert [row['layer'] for row in rows] == ['0', '1', '2']
    assert [row['narrow_widths'] for row in rows] == [[3, 8], [8, 8], [8, 4]]
    assert [row['flops_ratio'] for row in rows] == [0.5, 0.25, 0.5]
    assert all(row[kind] > 0 for row in rows for kind in KINDS)
    assert table(rows).count('\n') == 1 + 3 + 1
