# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from mmlapp.core import PruningError
from mmlapp.engine.export.base import EXPORTERS
from mmlapp.engine.export.formats import find_exporter, format_of


@pytest.mark.parametrize('name', list(EXPORTERS))
def test_the_suffix_tells_the_format(name):
    exporter = find_exporter(name)
    assert format_of(Path(f'a/net{exporter.suffix}')) == name


@pytest.mark.parametrize(
    ('path', 'text'),
    [
        ('net.onxx', r"^'net.onxx' is of an unknown type; did you mean .onnx"),
        ('net', r"^'net' is of an unknown type; choose one of: .*\.pt2"),
    ],
)
def test_a_suffix_that_no_format_has(path, text):
    with pytest.raises(PruningError, match=text):
        format_of(Path(path))


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('onxn', "^format='onxn' is unknown; did you mean onnx.* choose one"),
        ('coreml', "^format='coreml' is unknown; choose one of: onnx, "),
    ],
)
def test_a_format_that_is_not_there(name, text):
    with pytest.raises(PruningError, match=text):
        find_exporter(name)


def test_a_missing_package(monkeypatch):
    monkeypatch.setattr(
        'mmlapp.engine.export.base.find_spec',
        lambda name: None if name == 'onnxscript' else name,
    )
    with pytest.raises(PruningError, match='pip install onnxscript'):
        find_exporter('onnx')
