# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from mmcv.ops import ModulatedDeformConv2dPack
from torch import nn

from mmlapp.core import PruningError, analyse, attach
from mmlapp.core.cost import Flops, LatencyTable
from mmlapp.core.cost.whole_networks import shares
from mmlapp.engine.latency import partial
from mmlapp.engine.latency.measure import latency_table, measure_table
from mmlapp.engine.latency.setting import Setting
from mmlapp.engine.latency.subject import Procedure, Subject


def test_a_table_in_closed_form(subject, procedure, pretend, images):
    """What takes time in proportion to FLOPs is predicted by them."""
    table = measure_table(subject, procedure)
    assert [layer.names for layer in table.layers] == [
        ('0',),
        ('3',),
        ('5',),
        ('8',),
    ]
    assert LatencyTable.from_dict(table.to_dict()) is not None
    assert shares(table.networks) == pytest.approx((1, 0, 0), abs=1e-6)
    dense, *slim = table.networks
    assert (dense.layers, dense.elements) == (1, 1)
    assert len(slim) == 4
    for network in slim:
        assert network.layers < 1
        assert network.median / dense.median == pytest.approx(network.layers)
    costs = ['flops', dict(type='latency', table=table)]
    pruner = attach(subject.model, images, costs=costs, divisor=2)
    assert isinstance(pruner.cost('flops'), Flops)
    gate = torch.full_like(pruner.gate, 0.75)
    flops, latency = (
        float(pruner.cost(name).ratio(gate)) for name in ('flops', 'latency')
    )
    assert flops == pytest.approx(latency)


def test_a_network_with_a_deformable_convolution(images):
    """Measured as it is, at every width, and a budget like any other."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        ModulatedDeformConv2dPack(8, 8, 3, padding=1),
        nn.Conv2d(8, 4, 1),
    ).eval()
    subject = Subject('small', model, analyse(model, images), images)
    table = measure_table(subject, Procedure(points=2, rounds=1, divisor=2))
    by_name = {layer.names: layer for layer in table.layers}
    assert by_name['1',].axes == {'in': (2, 4, 8), 'out': (2, 4, 8)}
    costs = ['flops', dict(type='latency', table=table)]
    pruner = attach(model, images, costs=costs, divisor=2, method='uniform')
    pruner.begin({'flops': 0.5}, 1)
    pruner.step()
    assert 0 < pruner.ratios()['latency'] < 1.5


def test_the_network_is_not_changed(subject, procedure, pretend):
    before = {k: v.clone() for k, v in subject.model.state_dict().items()}
    measure_table(subject, procedure)
    torch.testing.assert_close(dict(subject.model.state_dict()), before)
    assert not hasattr(subject.model, 'pruner')


def test_the_batch_is_that_of_all(subject, clock, pretend):
    procedure = Procedure(Setting(batch=3), 4, 2, 2, clock)
    tables = [
        measure_table(subject, p)
        for p in (
            procedure,
            Procedure(points=4, rounds=2, divisor=2, clock=clock),
        )
    ]
    dense = [table.networks[0].median for table in tables]
    assert dense[0] == pytest.approx(3 * dense[1])
    layer = [table.layers[0].median[-1] for table in tables]
    assert layer[0] == pytest.approx(3 * layer[1])


@pytest.mark.parametrize(
    'backend',
    ['torch', pytest.param('onnxruntime', marks=pytest.mark.slow)],
)
def test_a_real_clock(subject, backend):
    """That all of it runs; no time is asserted."""
    table = measure_table(subject, Procedure(Setting(backend), 2, 1, 8))
    assert all(t > 0 for layer in table.layers for t in layer.median)
    assert len(table.networks) == 5


def test_branches_are_measured(network, images, procedure, pretend):
    analysis = analyse(network, images, bypass='depthwise')
    table = measure_table(Subject('b', network, analysis, images), procedure)
    names = [name for layer in table.layers for name in layer.names]
    assert '3.bypass' in names
    costs = ['flops', dict(type='latency', table=table)]
    attach(network, images, bypass='depthwise', costs=costs, divisor=2)


def test_a_finished_file_is_not_measured_again(
    subject, procedure, pretend, tmp_path
):
    path = tmp_path / 'table.json'
    table = latency_table(subject, procedure, path)
    assert [p.name for p in tmp_path.iterdir()] == ['table.json']
    pretend.clear()
    again = latency_table(subject, procedure, path)
    assert again.to_dict() == table.to_dict()
    assert not pretend
    latency_table(subject, procedure, path, force=True)
    assert pretend


def test_a_table_that_is_measured_anew_goes_on_as_well(
    subject, procedure, pretend, tmp_path
):
    path = tmp_path / 'table.json'
    latency_table(subject, procedure, path)
    before = path.read_bytes()

    def stop(done, total, name):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        latency_table(subject, procedure, path, True, stop)
    assert path.read_bytes() == before
    pretend.clear()
    latency_table(subject, procedure, path)
    assert set(pretend) == {'5', '8'}
    assert [p.name for p in tmp_path.iterdir()] == ['table.json']


def test_a_file_of_something_else(subject, procedure, pretend, tmp_path):
    path = tmp_path / 'table.json'
    latency_table(subject, procedure, path)
    before = path.read_bytes()
    other = Procedure(Setting(batch=2), 4, 2, 2, procedure.clock)
    with pytest.raises(PruningError, match=r'batch 1, not 2.*--force'):
        latency_table(subject, other, path)
    scope = analyse(subject.model, subject.images, scope='3')
    model = Subject('small', subject.model, scope, subject.images)
    with pytest.raises(PruningError, match='layers '):
        latency_table(model, procedure, path)
    assert path.read_bytes() == before


def test_a_damaged_file(subject, procedure, pretend, tmp_path):
    path = tmp_path / 'table.json'
    path.write_text('{}')
    with pytest.raises(PruningError, match='no latency table'):
        latency_table(subject, procedure, path)
    assert path.read_text() == '{}'


def test_a_folder_that_is_not_there(subject, procedure, pretend, tmp_path):
    with pytest.raises(PruningError, match='no folder'):
        latency_table(subject, procedure, tmp_path / 'none' / 'table.json')
    assert not pretend


def test_what_cannot_be_written_is_not_measured(
    subject, procedure, pretend, tmp_path, monkeypatch
):
    (tmp_path / 'folder').mkdir()
    with pytest.raises(PruningError, match=r"out=.*folder' is a folder"):
        latency_table(subject, procedure, tmp_path / 'folder', force=True)

    def fail(path, text):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(partial, 'replace_text', fail)
    with pytest.raises(PruningError, match=r'table.*No space.*--out'):
        latency_table(subject, procedure, tmp_path / 'table.json')
    assert not pretend


def test_what_fails_leaves_no_table(subject, procedure, pretend, tmp_path):
    def stop(done, total, name):
        if done == total - 1:
            raise KeyboardInterrupt

    path = tmp_path / 'table.json'
    with pytest.raises(KeyboardInterrupt):
        latency_table(subject, procedure, path, progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ['table.json.partial']


def test_what_is_done_is_kept_where_a_link_leads(
    subject, procedure, pretend, tmp_path
):
    """There the table is written as well: this folder may be read-only."""

    def stop(done, total, name):
        raise KeyboardInterrupt

    disk, link = tmp_path / 'disk', tmp_path / 'link.json'
    disk.mkdir()
    link.symlink_to(disk / 'table.json')
    with pytest.raises(KeyboardInterrupt):
        latency_table(subject, procedure, link, progress=stop)
    assert [p.name for p in disk.iterdir()] == ['table.json.partial']
    latency_table(subject, procedure, link)
    assert [p.name for p in disk.iterdir()] == ['table.json']
    assert link.is_symlink()
