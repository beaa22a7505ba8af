# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A network on a GPU is pruned as it is on the CPU."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from mmlapp.core import (
    Phase,
    PruningError,
    analyse,
    attach,
    merge_bypasses,
    narrow,
)
from mmlapp.core.compare import relative_error

STEPS = 8
OPTIMIZERS = {
    'sgd, foreach': lambda p: torch.optim.SGD(
        p, 0.05, momentum=0.9, weight_decay=1e-2, foreach=True
    ),
    'sgd, fused': lambda p: torch.optim.SGD(
        p, 0.05, momentum=0.9, nesterov=True, fused=True
    ),
    'adam, foreach': lambda p: torch.optim.Adam(p, 1e-2, foreach=True),
    'adam, fused': lambda p: torch.optim.Adam(
        p, 1e-2, amsgrad=True, fused=True
    ),
    'adamw, capturable': lambda p: torch.optim.AdamW(
        p, 1e-2, weight_decay=0.1, capturable=True
    ),
}
KERNELS = {
    '_scaled_dot_product_flash_attention': SDPBackend.FLASH_ATTENTION,
    '_scaled_dot_product_efficient_attention': SDPBackend.EFFICIENT_ATTENTION,
    '_scaled_dot_product_cudnn_attention': SDPBackend.CUDNN_ATTENTION,
}


class Attention(nn.Module):
    """Attention of 8 heads and a gated feed-forward layer."""

    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(64, 64), nn.Linear(64, 64)
        self.value = nn.Linear(64, 64)
        self.out, self.norm = nn.Linear(64, 64), nn.LayerNorm(64)
        self.gate, self.up = nn.Linear(64, 32), nn.Linear(64, 32)
        self.down = nn.Linear(32, 64)

    def forward(self, x):
        # [N, L, 64] -> [N, 8, L, 8]
        parts = [
            layer(x).unflatten(2, (8, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        mixed = functional.scaled_dot_product_attention(*parts)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y = self.norm(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


@pytest.fixture
def make(net, conv):
    """A residual network in float64, on the CPU."""

    def forward(m, x):
        x = m.n0(m.stem(x)).relu()
        y = m.n1(m.a(x)).relu()
        y = m.drop(m.n2(m.deep(y)).relu())
        return m.fc((x + m.b(y)).relu().mean((2, 3)))

    def build():
        torch.manual_seed(0)
        return net(
            forward,
            stem=conv(3, 16, bias=False),
            n0=nn.BatchNorm2d(16),
            a=conv(16, 24, bias=False),
            n1=nn.BatchNorm2d(24),
            deep=conv(24, 24, groups=24, bias=False),
            n2=nn.BatchNorm2d(24),
            drop=nn.Dropout(0),
            b=conv(24, 16),
            fc=nn.Linear(16, 4),
        )

    return build


def batch(step, device):
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(4, 3, 8, 8, dtype=torch.double, generator=generator)
    labels = torch.randint(0, 4, (4,), generator=generator)
    return images.to(device), labels.to(device)


def train(model, optimizer, steps, device):
    for step in steps:
        images, labels = batch(step, device)
        loss = functional.cross_entropy(model(images), labels)
        pruner = getattr(model, 'pruner', None)
        if pruner is not None:
            loss = loss + pruner.loss()
        loss.backward()
        optimizer.step()
        if pruner is not None:
            pruner.step()
        optimizer.zero_grad()


def found_by(analysis):
    return [
        (group.name, group.size, str(group.frozen))
        for group in analysis.groups.items
    ]


def test_the_analysis_is_that_of_the_cpu(make, image, card):
    expected = analyse(make(), image)
    found = analyse(make().to(card), image.to(card))
    assert len(found.groups.prunable) == 2
    assert found_by(found) == found_by(expected)


class Operators(TorchDispatchMode):
    """Notes which operators run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize('kernel', KERNELS)
def test_every_kernel_of_attention_is_known(card, kernel):
    model, tokens = Attention(), torch.randn(2, 16, 64)
    expected = analyse(copy.deepcopy(model), tokens)
    model, tokens = model.to(card).bfloat16(), tokens.to(card).bfloat16()
    # What looks again in float64 has no other kernel than the plain one.
    allowed = [KERNELS[kernel], SDPBackend.MATH]
    if card == 'cpu':
        kernel += '_for_cpu'
    with sdpa_kernel(allowed, set_priority=True), Operators() as operators:
        found = analyse(model, tokens)
    if kernel not in operators.names and card == 'cpu':
        pytest.skip('the CPU has one kernel alone')
    assert kernel in operators.names
    assert len(expected.groups.prunable) > 1
    assert found_by(found) == found_by(expected)


@pytest.mark.parametrize('method', ['lapp', 'uniform'])
@pytest.mark.parametrize('unit', ['channels', 'filters'])
def test_a_phase_keeps_what_it_keeps_on_the_cpu(make, card, method, unit):
    kept = []
    for device in ('cpu', card):
        # Attached where the generator is the same: branches start at random.
        model = make()
        bypass = dict(bypass='depthwise') if unit == 'filters' else {}
        images = batch(0, 'cpu')[0]
        pruner = attach(model, images, method=method, unit=unit, **bypass)
        model.to(device)
        pruner.begin({'flops': 0.6}, STEPS)
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        train(model, optimizer, range(STEPS), device)
        assert pruner.phase == Phase.FINISHED
        kept.append(pruner.plan())
    assert kept[1].ratios()['flops'] <= 0.6
    assert kept[0].slices == kept[1].slices
    assert kept[0].ratios() == pytest.approx(kept[1].ratios())


# PyTorch's advice on what is not captured.
@pytest.mark.filterwarnings('ignore:.*capturable=True:UserWarning')
@pytest.mark.parametrize('name', OPTIMIZERS)
def test_states_on_a_gpu_are_narrowed(make, card, name):
    """Ten narrow steps equal ten masked ones."""
    if card == 'cpu' and 'capturable' in name:
        pytest.skip('only a GPU captures')
    model = make().to(card)
    pruner = attach(model, batch(0, card)[0])
    pruner.begin({'flops': 0.5}, STEPS)
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, range(STEPS), card)
    masked = copy.deepcopy((model, optimizer))
    narrow(model, pruner.plan(), optimizer)
    assert model.a.weight.shape[0] < 24
    steps = range(STEPS, STEPS + 10)
    for run in (masked, (model, optimizer)):
        train(*run, steps, card)
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if key != 'step' and value is not None:
                assert value.shape == parameter.shape
                assert value.device == parameter.device
    images = batch(1000, card)[0]
    found, expected = model.eval()(images), masked[0].eval()(images)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_channels_last_is_kept(make, card):
    """From the masks through the narrow network to its gradients."""
    kind = torch.channels_last
    # A GPU does not compute in that order in float64.
    model = make().float().to(card, memory_format=kind)
    images, labels = batch(0, card)
    images = images.float().contiguous(memory_format=kind)
    pruner = attach(model, images)
    pruner.begin({'flops': 0.5}, 1)
    pruner.finish()
    masked, seen = model.eval()(images).detach(), []
    narrow(model, pruner.plan())
    model.b.register_forward_hook(
        lambda m, args, out: seen.append(out.is_contiguous(memory_format=kind))
    )
    assert relative_error(masked, model(images).detach()) < 5e-3
    functional.cross_entropy(model.train()(images), labels).backward()
    assert seen == [True, True]
    for layer in (model.stem, model.a, model.b):
        assert layer.weight.is_contiguous(memory_format=kind)
        assert layer.weight.grad.is_contiguous(memory_format=kind)


@pytest.mark.parametrize('model_first', [False, True])
def test_an_example_elsewhere_is_refused(make, image, card, model_first):
    if card == 'cpu':
        pytest.skip('there is no other device')
    model = make().to(card) if model_first else make()
    example = image if model_first else image.to(card)
    before = list(model.state_dict())
    with pytest.raises(PruningError, match=r'(?s)example.*(device|type)'):
        attach(model, example)
    assert list(model.state_dict()) == before


def test_a_prunable_network_moves(make, image, card):
    """Attached on the CPU, trained on the GPU, narrowed on the CPU."""
    model = make()
    pruner = attach(model, image)
    pruner.begin({'flops': 0.5}, STEPS)
    model.to(card)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    train(model, optimizer, range(STEPS), card)
    images = batch(0, card)[0]
    expected = model.eval()(images).cpu()
    tensors = [*model.parameters(), *model.buffers()]
    assert {t.device.type for t in tensors} == {card}
    plan = pruner.plan()
    narrow(model.cpu(), plan)
    torch.testing.assert_close(model(images.cpu()), expected)


def test_a_saved_phase_goes_on_on_the_cpu(make, image, card):
    """A checkpoint of a GPU in the middle of a phase."""
    model = make().to(card)
    pruner = attach(model, image.to(card))
    pruner.begin({'flops': 0.5}, STEPS)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    train(model, optimizer, range(STEPS // 2), card)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, range(STEPS // 2, STEPS), card)
    again = make()
    attach(again, image)
    again.load_state_dict(saved[0])
    other = torch.optim.SGD(again.parameters(), 0.05, momentum=0.9)
    other.load_state_dict(saved[1])
    assert again.pruner.progress.done == STEPS // 2
    train(again, other, range(STEPS // 2, STEPS), 'cpu')
    assert again.pruner.plan().slices == pruner.plan().slices


@pytest.fixture
def tf32():
    """Products and convolutions of float32 in nineteen bits."""
    parts = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [part.allow_tf32 for part in parts]

    def allow(flag):
        for part in parts:
            part.allow_tf32 = flag

    yield allow
    for part, flag in zip(parts, before, strict=True):
        part.allow_tf32 = flag


@pytest.mark.parametrize(
    ('setting', 'tolerance'),
    [('float32', 1e-4), ('tf32', 5e-3), ('float16', 1e-2), ('bfloat16', 0.08)],
)
@pytest.mark.parametrize('kind', ['asymmetric', 'repvgg', 'twin'])
def test_merged_branches_compute_what_they_did(
    net, conv, randomise, mask_randomly, card, tf32, kind, setting, tolerance
):
    """Up to what the numbers themselves resolve."""
    model = net(
        lambda m, x: m.c(m.n(m.b(m.a(x).relu())).relu()),
        a=conv(3, 12),
        b=conv(12, 16),
        n=nn.BatchNorm2d(16),
        c=conv(16, 5),
    )
    randomise(model).float().to(card)
    images = torch.randn(4, 3, 16, 16, device=card)
    pruner = attach(model, images, bypass=kind)
    randomise(model)
    mask_randomly(pruner)
    slim = narrow(model, pruner.plan()).eval()
    tf32(setting == 'tf32')
    half = dict(float16=torch.float16, bfloat16=torch.bfloat16).get(setting)
    run = torch.autocast(card, half or torch.bfloat16, enabled=bool(half))
    with torch.no_grad(), run:
        expected = slim(images)
        assert set(merge_bypasses(slim).values()) == {None}
        torch.clear_autocast_cache()
        found = slim(images)
    assert relative_error(expected, found) < tolerance


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # of the compiler
def test_compiled_networks_compute_the_same(make, card, tf32):
    """Masked in the phase, and once more after narrowing."""
    tf32(False)
    torch.compiler.reset()
    model = make().float().to(card)
    images = torch.randn(4, 3, 8, 8, device=card)
    pruner = attach(model, images)
    pruner.begin({'flops': 0.5}, 2)
    for narrowed in (False, True):
        fast = torch.compile(model)
        gradients = []
        for function in (model, fast):
            model.zero_grad()
            output = function(images)
            output.square().mean().backward()
            gradients.append([output.detach(), model.fc.weight.grad])
        for a, b in zip(*gradients, strict=True):
            assert relative_error(a, b) < 1e-4
        if not narrowed:
            pruner.step()
            pruner.step()
            narrow(model, pruner.plan())
            del pruner
