# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import resource
import subprocess
import sys

import pytest
import torch
from rounding import Equal, nearly_equal
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine.export.base import Exporter, Settings
from mmlapp.engine.export.files import export, load
from mmlapp.engine.export.torchscript import TorchScript

SUFFIXES = 'onnx', 'pt2', 'torchscript'
RUN_ALONE = """
import sys, onnxruntime, torch
images = torch.load('images.pth')
session = onnxruntime.InferenceSession('net.onnx')
found = session.run(None, {'input': images.numpy()})
all_found = [
    [torch.from_numpy(value) for value in found],
    torch.export.load('net.pt2').module()(images),
    torch.jit.load('net.torchscript')(images),
]
assert 'mmlapp' not in sys.modules and 'mmengine' not in sys.modules
torch.save([[t.detach() for t in found] for found in all_found], 'found.pth')
"""


def expected_of(net, images):
    with torch.no_grad():
        found = net(images)
    return [found['logits'], *found['features']]


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_compute_what_the_network_does(net, images, tmp_path):
    for suffix in SUFFIXES:
        made = export(net, images, tmp_path / f'net.{suffix}')
        assert made.size == made.path.stat().st_size
        run = load(made.path, threads=1)
        # Any batch, by default.
        for batch in (images, images[:1], torch.cat([images, images])):
            torch.testing.assert_close(run(batch), expected_of(net, batch))
    assert left_in(tmp_path) == sorted(f'net.{s}' for s in SUFFIXES)


@pytest.mark.slow
def test_files_run_without_this_package(net, images, tmp_path):
    """And without MMEngine."""
    for suffix in SUFFIXES:
        export(net, images, tmp_path / f'net.{suffix}')
    torch.save(images, tmp_path / 'images.pth')
    command = [sys.executable, '-W', 'ignore', '-c', RUN_ALONE]
    subprocess.run(command, check=True, cwd=tmp_path)
    for found in torch.load(tmp_path / 'found.pth'):
        torch.testing.assert_close(list(found), expected_of(net, images))


@pytest.mark.parametrize('suffix', SUFFIXES[1:])
def test_another_size(net, images, tmp_path, suffix):
    path = tmp_path / f'net.{suffix}'
    export(net, images, path, settings=Settings('size'))
    other = torch.rand(1, 3, 16, 24)
    torch.testing.assert_close(load(path)(other), expected_of(net, other))


@pytest.mark.parametrize(
    'suffix', [pytest.param('onnx', marks=pytest.mark.slow), *SUFFIXES[1:]]
)
def test_half_precision_is_inside_alone(net, images, tmp_path, suffix):
    path = tmp_path / f'net.{suffix}'
    made = export(net, images, path, settings=Settings(fp16=True))
    found = load(path)(images)
    assert {t.dtype for t in found} == {torch.float32}
    # Rounded to 11 bits, and the network itself stays as it was.
    assert 1e-5 < made.error < made.tolerance
    assert net.conv.weight.dtype == torch.float32


class Classes(nn.Module):
    """What no half can count to."""

    def forward(self, x):
        places = x.flatten(1).argmax(1)
        return x * 2, places + 100_001, x > 0.5


@pytest.mark.parametrize(
    'suffix', [pytest.param('onnx', marks=pytest.mark.slow), *SUFFIXES[1:]]
)
def test_whole_numbers_and_booleans_stay_such(images, tmp_path, suffix):
    path = tmp_path / f'net.{suffix}'
    export(Classes().eval(), images, path, settings=Settings(fp16=True))
    types = [t.dtype for t in load(path)(images)]
    assert types == [torch.float32, torch.int64, torch.bool]


class Phases(nn.Module):
    """A trace computes other imaginary parts, and the same real ones."""

    def forward(self, x):
        return torch.complex(x, x * (2 if torch.jit.is_tracing() else 3))


def test_the_imaginary_part_is_compared(images, tmp_path):
    with pytest.raises(PruningError, match='does not compute what'):
        export(Phases().eval(), images, tmp_path / 'net.torchscript')
    assert left_in(tmp_path) == []


class Normalises(nn.Module):
    def forward(self, x):
        return x.sub_(1).mul_(2) * 3


@pytest.mark.parametrize(
    'suffix', [pytest.param('onnx', marks=pytest.mark.slow), *SUFFIXES[1:]]
)
def test_a_network_that_changes_its_input(images, tmp_path, suffix):
    before, path = images.clone(), tmp_path / f'net.{suffix}'
    export(Normalises().eval(), images, path)
    assert torch.equal(images, before)
    (found,) = load(path)(images.clone())
    torch.testing.assert_close(found, (before - 1) * 6)


class Silent(nn.Module):
    def forward(self, x):
        return {'size': len(x)}


@pytest.mark.parametrize(
    ('network', 'change', 'text'),
    [
        (Silent(), lambda x: x, 'returns no tensors in lists, tuples or'),
        (nn.Conv2d(3, 4, 1), lambda x: x.double(), 'torch.float64 .*Give im'),
        (nn.Conv2d(3, 4, 1), lambda x: x[:, :2], r'run on images of shape \('),
        (nn.Conv2d(3, 4, 1), lambda x: [x], 'images is of type list: expect'),
        (nn.Conv2d(3, 4, 1), lambda x: x[0], r'images of shape \(3, 8, 8\)'),
        (nn.Conv2d(3, 4, 1), lambda x: x[:0], r'images of shape \(0, 3, 8'),
    ],
)
def test_what_cannot_be_compared(images, tmp_path, network, change, text):
    with pytest.raises(PruningError, match=text):
        export(network.eval(), change(images), tmp_path / 'net.torchscript')
    assert left_in(tmp_path) == []


@pytest.mark.slow
def test_images_may_have_gradients(net, images, tmp_path):
    export(net, images.requires_grad_(), tmp_path / 'net.onnx')


class Forgetful(nn.Module):
    """What depends on a condition is fixed by a trace, as a constant."""

    def forward(self, x):
        return x * (2.0 if len(x) > 1 else 3.0)


class Peeks(nn.Module):
    """A trace takes a pixel of its example for a constant."""

    def forward(self, x):
        return x * float(x[0, 0, 0, 0])


class Reads(nn.Module):
    """Python computes with a number that the images decide."""

    def forward(self, x):
        return x * float(x.sum())


class Unknown(nn.Module):
    """Eigenvalues are no operator of ONNX."""

    def forward(self, x):
        return torch.linalg.eigvals(x[:, 0]).abs()


@pytest.mark.parametrize(
    ('network', 'suffix', 'text'),
    [
        (
            Forgetful().eval(),
            'torchscript',
            r'does not compute .* error 0\.33, at',
        ),
        (Reads().eval(), 'pt2', r'cannot hold .*data-dependent'),
        pytest.param(
            Unknown().eval(),
            'onnx',
            r"format='onnx' cannot hold .*aten\.linalg_eig",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_a_format_cannot_hold_leaves_nothing(
    network, suffix, text, images, tmp_path
):
    with pytest.raises(PruningError, match=text):
        export(network, images, tmp_path / f'net.{suffix}')
    assert left_in(tmp_path) == []


def test_files_are_compared_on_other_values_than_the_example(images, tmp_path):
    net, path = Peeks().eval(), tmp_path / 'net.torchscript'
    with pytest.raises(PruningError, match='does not compute what'):
        export(net, images, path, settings=Settings('none'))
    assert left_in(tmp_path) == []


def test_a_former_file_stays_unless_a_good_one_replaces_it(
    net, images, tmp_path
):
    path = tmp_path / 'net.torchscript'
    path.write_text('mine')
    with pytest.raises(PruningError, match=r'exists; .*--force'):
        export(net, images, path)
    with pytest.raises(PruningError, match='does not compute'):
        export(Forgetful().eval(), images, path, force=True)
    assert path.read_text() == 'mine'
    export(net, images, path, force=True)
    assert len(load(path)(images)) == 2
    assert left_in(tmp_path) == ['net.torchscript']


@pytest.mark.parametrize(
    'suffix', [pytest.param('onnx', marks=pytest.mark.slow), *SUFFIXES[1:]]
)
def test_a_full_disk(net, images, tmp_path, suffix):
    """The system refuses files of more than a few bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(PruningError, match=r'written \(File too'):
            export(net, images, tmp_path / f'net.{suffix}')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert left_in(tmp_path) == []


def test_a_folder_that_cannot_be_written(net, images, monkeypatch, tmp_path):
    def refuse(self, *args):
        raise PermissionError(13, 'Permission denied', str(self))

    monkeypatch.setattr('pathlib.Path.write_bytes', refuse)
    with pytest.raises(PruningError, match=r'written \(Permission denied\)'):
        export(net, images, tmp_path / 'net.torchscript')


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('net.onxx', r'unknown type; did you mean \.onnx\? choose one of'),
        ('none/net.onnx', 'there is no folder .*none; make it'),
    ],
)
def test_paths_that_cannot_be_written(net, images, tmp_path, name, text):
    with pytest.raises(PruningError, match=text):
        export(net, images, tmp_path / name)


class ReadsHeight(nn.Module):
    """A trace takes the height of its example for a constant."""

    def forward(self, x):
        return x * float(x.shape[2])


def test_open_sizes_are_compared_on_another_size(images, tmp_path):
    net, path = ReadsHeight().eval(), tmp_path / 'net.torchscript'
    with pytest.raises(PruningError, match='does not compute what'):
        export(net, images, path, settings=Settings('size'))
    assert left_in(tmp_path) == []
    export(net, images, path, settings=Settings('batch'))


def test_training_mode_is_refused(net, images, tmp_path):
    with pytest.raises(PruningError, match=r'call network\.eval\(\) first'):
        export(net.train(), images, tmp_path / 'net.pt2')
    net.eval().norm.train()
    with pytest.raises(PruningError, match='norm is in training mode'):
        export(net, images, tmp_path / 'net.pt2')
    assert net.norm.training


@pytest.mark.parametrize('settings', [dict(slim=True), dict(opset=20)])
def test_a_setting_without_effect(net, images, tmp_path, settings):
    text = "has no effect on format='torch_export'; leave it out"
    with pytest.raises(PruningError, match=text):
        export(
            net, images, tmp_path / 'net.pt2', settings=Settings(**settings)
        )


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_a_damaged_file_does_not_load(tmp_path, suffix, net, images):
    path = tmp_path / f'net.{suffix}'
    with pytest.raises(PruningError, match='there is no such file'):
        load(path)
    path.write_bytes(b'PK\x03\x04 and no more')
    with pytest.raises(PruningError, match='it is truncated, damaged or of'):
        load(path)


def test_a_format_is_one_class(tmp_path, images):
    """Errors that are no number are no agreement."""
    from mmlapp.engine.export.base import EXPORTERS, register_exporter

    @register_exporter('numbers')
    class Numbers(Exporter):
        suffix = '.numbers'

        def write(self, network, images, path, names, settings):
            path.write_text(' '.join(names))

        def load(self, path, threads=None):
            return lambda images: [images * float('nan')]

    try:
        with pytest.raises(PruningError, match='relative error nan'):
            export(nn.ReLU().eval(), images, tmp_path / 'net.numbers')
    finally:
        del EXPORTERS._entries['numbers']


def test_values_that_rounding_decides_are_told(monkeypatch, tmp_path):
    """A file that keeps another of two equal values is kept, and says so."""
    images = nearly_equal(2, width=1000)
    load_usual = TorchScript.load

    def load_other(self, path, threads=None):
        run = load_usual(self, path, threads)

        def flipped(x):
            (found,) = run(x)
            found[0, 0, 0, 0] = 5 - found[0, 0, 0, 0]
            return [found]

        return flipped

    monkeypatch.setattr(TorchScript, 'load', load_other)
    path = tmp_path / 'net.torchscript'
    made = export(Equal().eval(), images, path, settings=Settings('none'))
    # On the images, and on those in a mirror.
    assert (made.error, made.undecided) == (0, 2)
    # Equal without rounding: then nothing is spared.
    other = tmp_path / 'other.torchscript'
    with pytest.raises(PruningError, match=r'relative error 1, at most'):
        export(Equal().eval(), images.round(), other)
    assert left_in(tmp_path) == ['net.torchscript']
