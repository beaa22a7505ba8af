# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest

from mmlapp.engine.benchmark.rows import OK, Row


@pytest.fixture
def row():
    """Makes the row of a measurement."""

    def make(name='slim', backend='torch', **changes):
        values = dict(
            status=OK,
            megabytes=1.5,
            parameters=2_000_000,
            macs=500_000_000,
            share=0.5,
            error=1e-6,
            median=0.010,
            p90=0.011,
            images_per_second=100.0,
            speed_up=1.9,
            factor=0.95,
        )
        return Row(name, backend, **{**values, **changes})

    return make
