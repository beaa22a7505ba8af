# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the README shows is run as it stands there."""

import ast
import re
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmlapp.core import LAPP, attach, register_score
from mmlapp.core.score import SCORES

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()


def block(marker: str) -> str:
    """The fenced Python block that holds a marker."""
    blocks = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
    (found,) = [text for text in blocks if marker in text]
    return found


def build_model() -> nn.Module:
    """A network of two convolutions and a classifier."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )


def run_the_loop() -> dict[str, Any]:
    """Runs the bare loop; returns its names."""
    torch.manual_seed(0)
    model = build_model()
    batch = torch.rand(8, 3, 8, 8), torch.randint(0, 4, (8,))
    names = {
        'model': model,
        'example_images': batch[0],
        'loader': [batch] * 40,
        'optimizer': torch.optim.SGD(model.parameters(), lr=0.05),
    }
    exec(block('pruner.begin'), names)
    return names


def test_the_bare_loop_prunes_to_half_the_flops() -> None:
    names = run_the_loop()
    small, images = names['small'], names['images']
    assert isinstance(small, nn.Module)
    a, b = small[0].out_channels, small[3].out_channels
    dense = 64 * 9 * (3 * 16 + 16 * 16) + 16 * 4
    pruned = 64 * 9 * (3 * a + a * b) + b * 4
    assert 0.4 < pruned / dense <= 0.5
    small.eval()
    assert small(images).shape == (8, 4)


def test_a_narrow_network_is_saved_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = run_the_loop()
    names['small'].eval()
    monkeypatch.chdir(tmp_path)
    names['build_model'] = build_model
    exec(block('small.plan.json'), names)
    names['model'].eval()
    torch.testing.assert_close(
        names['model'](names['images']), names['small'](names['images'])
    )


def test_the_settings_are_those_of_the_product() -> None:
    names: dict[str, Any] = {}
    exec(block('task_weight'), names)
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3))
    pruner = attach(model, torch.rand(1, 16, 9, 9), **names['model'])
    method = pruner.method
    assert isinstance(method, LAPP)
    assert method.update.task_weight == 0.5
    assert type(method.surrogate).__name__ == 'LongTail'
    assert isinstance(model[0].bypass.norm, nn.BatchNorm2d)


def test_the_own_score_takes_ten_lines() -> None:
    assert len(block('register_score').splitlines()) <= 10


def test_the_own_score_is_usable_by_name() -> None:
    name = 'largest_weight'
    SCORES._entries.pop(name, None)
    exec(block('largest_weight'), {'register_score': register_score})
    try:
        assert name in set(SCORES)
    finally:
        SCORES._entries.pop(name)


def test_stock_calls_take_what_they_are_given() -> None:
    tree = ast.parse(block('inference_detector'))
    imports = [n for n in tree.body if isinstance(n, ast.ImportFrom)]
    names: dict[str, Any] = {}
    exec(ast.unparse(ast.Module([*imports], [])), names)
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    checked = set()
    for call in calls:
        name = ast.unparse(call.func)
        if name in names:
            named = {k.arg: k.value for k in call.keywords if k.arg}
            signature(names[name]).bind(*call.args, **named)
            checked.add(name)
    assert checked == {a.name for n in imports for a in n.names}


@pytest.mark.parametrize(
    'path', sorted(set(re.findall(r'\]\(([^)#:]+)\)', README)))
)
def test_links_lead_to_files(path: str) -> None:
    assert (ROOT / path).exists()


def test_commands_name_files_that_exist() -> None:
    scripts = set(re.findall(r'(?:benchmarks|configs|tools)/[\w./-]+', README))
    assert len(scripts) >= 4
    for script in scripts:
        assert (ROOT / script.rstrip('.')).exists(), script
