# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Correlations of scores, against SciPy's."""

import json
from pathlib import Path

import pytest
import torch
from accuracy.network import classifier
from correlation import TITLES, main, plot, study
from scipy.stats import spearmanr

from mmlapp.core.score import SCORES
from mmlapp.core.score.scorer import Scorer

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / 'benchmarks' / 'results' / 'correlation.json'


@pytest.fixture
def result():
    model = classifier(8, 0).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(
        256, (10, 3, 32, 32), dtype=torch.uint8, generator=generator
    )
    found = study(model, pixels, torch.arange(10))
    return model, found


def test_all_scores_are_correlated(result):
    model, found = result
    own = [n for n in SCORES if not n.startswith('doc_')]
    assert set(own) <= set(found['scores'])
    assert found['channels'] == len(model.pruner.gate)
    first, second = (found['scores'].index(n) for n in ('l1', 'bn_scale'))
    pruner = model.pruner
    pairs = (
        Scorer(name, 'none').compute(pruner.groups).split(pruner.sizes)
        for name in ('l1', 'bn_scale')
    )
    groups = [
        spearmanr(*(values.detach() for values in pair)).statistic
        for pair in zip(*pairs, strict=True)
    ]
    expected = sum(groups) / len(groups)
    assert found['within_groups'][first][second] == pytest.approx(expected)
    for key in TITLES:
        assert found[key][first][first] == pytest.approx(1)


def test_the_picture_is_drawn_from_the_file(tmp_path):
    result = {
        'scores': ['l1', 'fpgm'],
        'global': [[1.0, 0.5], [0.5, 1.0]],
        'within_groups': [[1.0, -0.75], [-0.75, 1.0]],
    }
    (tmp_path / 'a.json').write_text(json.dumps(result))
    picture = tmp_path / 'images' / 'a.png'
    main(['--json', str(tmp_path / 'a.json'), '--plot', str(picture)])
    drawn = picture.read_bytes()
    result['global'][0][1] = -1.0
    plot(result, tmp_path / 'b.png')
    assert (tmp_path / 'b.png').read_bytes() != drawn


def test_data_without_weights_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(['data', '--json', 'a', '--plot', 'b'])
    assert 'weights: give those' in capsys.readouterr().err


def test_the_page_says_what_the_file_says():
    """The highest and the lowest agreement with `kl_divergence`."""
    result = json.loads(RESULTS.read_text())
    page = (ROOT / 'docs' / 'benchmarks.md').read_text()
    names = result['scores']
    row = result['within_groups'][names.index('kl_divergence')]
    for name, value in zip(names, row, strict=True):
        if name != 'kl_divergence':
            assert f'`{name}` {value:.2f}' in ' '.join(page.split())
