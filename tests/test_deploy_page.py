# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What docs/deploy.md says was run is run as it stands there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mmlapp.core import attach, narrow
from mmlapp.engine.export.base import EXPORTERS
from mmlapp.engine.export.files import export, load
from mmlapp.engine.export.handover import HANDOVERS, Slim, hand_over
from mmlapp.engine.export.network import Network

DOCS = Path(__file__).parents[1] / 'docs'
PAGE = (DOCS / 'deploy.md').read_text('utf-8')


def block(marker, language='python'):
    """The fenced block that holds a marker."""
    blocks = re.findall(rf'```{language}\n(.*?)```', PAGE, re.DOTALL)
    (found,) = [text for text in blocks if marker in text]
    return found


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3),
        )
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, inputs, samples=None, mode='tensor'):
        return self.head(self.backbone(inputs)).mean((2, 3))


@pytest.fixture
def images():
    return torch.rand(2, 3, 16, 16)


@pytest.fixture
def slim(images, tmp_path, monkeypatch):
    """A slim network, in a folder that will have its files."""
    monkeypatch.chdir(tmp_path)
    model = Model().eval()
    pruner = attach(model, images)
    pruner.begin({'flops': 0.5}, steps=1)
    pruner.step()
    plan = pruner.plan()
    return Slim(Network.find(narrow(model, plan), images), [plan], (), Model)


def test_export_and_onnx_runtime_in_python(slim, images):
    names = {'network': slim.network, 'images': images}
    exec(block('made = export'), names)
    torch.testing.assert_close(names['outputs'], [slim.network(images)])
    exec(block('InferenceSession'), names)
    pixels = torch.from_numpy(names['pixels'])
    torch.testing.assert_close(
        torch.from_numpy(names['scores']), slim.network((pixels - 80) / 90)
    )


def test_plain_pytorch(slim, images):
    for name in ('plain', 'safetensors'):
        suffix = {'plain': 'pth'}.get(name, name)
        hand_over(slim, images, Path(f'slim.{suffix}'), name)
    names = {'build_model': Model}
    exec(block("load_slim(build_model(), 'slim.pth')"), names)
    exec(block('build_model().backbone'), names)
    expected = slim.network(images)
    for name in ('slim', 'same'):
        torch.testing.assert_close(names[name](images), expected)
    torch.testing.assert_close(
        names['backbone'](images), slim.network.model.backbone(images)
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('g++') is None, reason='needs g++')
def test_libtorch(slim, images):
    export(slim.network, images, 'slim.torchscript')
    Path('run.cpp').write_text(block('torch/script.h', 'cpp'))
    python = Path(sys.executable).parent
    found = subprocess.run(
        ['bash', '-ec', block('g++', 'bash')],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, 'PATH': f'{python}:{os.environ["PATH"]}'},
    )
    (outputs,) = load('slim.torchscript')(torch.ones(2, 3, 16, 16))
    assert float(found.stdout) == pytest.approx(float(outputs.sum()), rel=1e-4)


@pytest.mark.parametrize(
    'path', sorted(set(re.findall(r'\]\(([^)#:]+)\)', PAGE)))
)
def test_links_lead_to_files(path):
    assert (DOCS / path).exists()


def test_formats_of_the_table_are_those_there_are():
    suffixes = {name: EXPORTERS[name].suffix for name in EXPORTERS}
    rows = re.findall(r'\| `NAME(\.\w+)` \| `(\w+)`', PAGE)
    assert {name: suffix for suffix, name in rows} == {**suffixes, **HANDOVERS}
