# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import io
from pathlib import Path

from mmlapp.engine.export.command import Status
from mmlapp.engine.export.files import Exported
from mmlapp.engine.export.table import statuses_table
from mmlapp.engine.terminal import console


def test_a_row_for_each_format():
    path = Path('net.onnx')
    made = Exported('onnx', path, 2e-6, 1e-3, 1_230_000, 1.26)
    statuses = [
        Status('onnx', path, made),
        Status('plain', Path('net.pth'), reason='because'),
    ]
    file = io.StringIO()
    console(file).print(statuses_table(statuses))
    rows = [
        [cell.strip() for cell in line.split('│')[1:-1]]
        for line in file.getvalue().splitlines()
        if line.startswith('│')
    ]
    assert rows == [
        ['onnx', 'passed', 'net.onnx', '1.23', '2.0e-06', '0.001', '1.3'],
        ['plain', 'failed', '', '', '', '', ''],
    ]
