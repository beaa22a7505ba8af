# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""BatchNorm folded into the convolutions before it, branches merged."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..bypass.merging import gained_biases, merge_bypasses
from ..compare import DEPLOYED_TOLERANCE, largest_error
from ..default_device import on_cpu
from ..errors import PruningError
from ..mask.masked import masked_parameters
from ..narrowing.check_plan import module_at
from ..plan.plan import ChannelPlan, as_plans
from ..pruner import Pruner
from ..units.striped import Striped

# Names of a convolution and of the norm that it took in.
Fold = tuple[str, str]
CONVOLUTION = torch.ops.aten.convolution.default


@dataclass(frozen=True)
class Fused:
    """A fused copy of a network.

    Args:
        model (nn.Module): The copy, in evaluation mode.
        plans (tuple[ChannelPlan, ...]): Those of the network, without the
            branches that were merged and the costs, which are others now.
        folds (tuple[tuple[str, str], ...]): Names of every convolution and
            of the norm that it took in.
        error (float): Largest relative error of an output.
    """

    model: nn.Module
    plans: tuple[ChannelPlan, ...]
    folds: tuple[Fold, ...]
    error: float


@on_cpu()
@torch.no_grad()
def fuse(
    model: nn.Module,
    example: Tensor | Callable[[nn.Module], Any],
    plans: ChannelPlan | Sequence[ChannelPlan] = (),
) -> Fused:
    r"""Merges branches and folds norms into convolutions, in a copy.

    :math:`\gamma (W x + b - \mu) / \sigma + \beta` is a convolution with
    :math:`\gamma W / \sigma` and :math:`\gamma (b - \mu) / \sigma + \beta`.
    A norm is folded where a forward shows that it reads one convolution
    alone, whose outputs nobody else reads.

    Args:
        model (nn.Module): A network without masks; not changed.
        example (Tensor or Callable): An input, or a function that runs the
            network it is given and returns the outputs.
        plans (ChannelPlan or Sequence[ChannelPlan]): What it was narrowed to,
            in order. Defaults to none: a dense network.

    Returns:
        Fused: The copy, and what was done.

    Raises:
        PruningError: If the network has masks, the example or plans are none,
            or the outputs of the copy differ.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        >>> fused = fuse(model, torch.rand(1, 3, 5, 5))
        >>> fused.model
        Sequential(
          (0): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
          (1): Identity()
        )
        >>> fused.folds
        (('0', '1'),)
    """
    check_unmasked(model)
    plans = as_plans(plans)
    if not callable(example) and not isinstance(example, Tensor):
        raise PruningError(
            f'example={type(example).__name__}: expected an input, or a '
            'function that runs the network it is given'
        )
    # A copy each: some networks normalise what they are given in place.
    run = example if callable(example) else lambda net: net(example.clone())
    own = copy.deepcopy(model)
    own.eval()
    # On the copy: not even a counter of the network changes.
    expected = _tensors(run(own))
    plans = _without_merged(own, plans, merge_bypasses(own))
    # After merging: a branch is a convolution that its norm reads, too.
    found = tuple(find_folds(own, lambda: run(own)))
    fold(own, found)
    error = largest_error(expected, _tensors(run(own)))
    if not error <= DEPLOYED_TOLERANCE:
        raise PruningError(
            f'the fused network differs from the network (relative error '
            f'{error:.2g}, at most {DEPLOYED_TOLERANCE:g}): '
            f'{_cause(own)}'
        )
    return Fused(own, tuple(plans), found, error)


def _cause(model: nn.Module) -> str:
    """Why outputs differ, and what to do."""
    types = {t.dtype for t in (*model.parameters(), *model.buffers())}
    rough = sorted(str(t) for t in types & {torch.half, torch.bfloat16})
    if rough:
        return (
            f'weights in {rough[0]} are rounded by more than that. Fuse the '
            'network in float32, and convert the copy'
        )
    return (
        'it computes otherwise at every call, or with values that are not '
        'finite. Leave it as it is'
    )


def check_unmasked(model: nn.Module) -> None:
    """Refuses a network that shows other weights than it stores.

    Args:
        model (nn.Module): The network.

    Raises:
        PruningError: If it has masks, with what to do first.
    """
    # Parts of a network have masks and no pruner; one that masks nothing yet
    # has a pruner alone, and so does what wraps it.
    pruned = any(isinstance(module, Pruner) for module in model.modules())
    if pruned or masked_parameters(model):
        raise PruningError(
            'the network has masks: narrow(model, model.pruner.plan()) first, '
            'the whole of it where this is a part'
        )


def fold(model: nn.Module, folds: Sequence[Fold]) -> None:
    """Folds norms into convolutions in place; an identity takes their place.

    Args:
        model (nn.Module): In evaluation mode.
        folds (Sequence[tuple[str, str]]): Names of both.

    Raises:
        PruningError: If there are no such layers.
    """
    for conv_name, norm_name in folds:
        conv = module_at(model, conv_name, conv_name)
        norm = module_at(model, norm_name, norm_name)
        if not isinstance(conv, _ConvNd) or not isinstance(norm, _BatchNorm):
            raise PruningError(
                f'{norm_name} cannot be folded into {conv_name}: they are a '
                f'{type(norm).__name__} and a {type(conv).__name__}'
            )
        _put(model, conv_name, _folded(conv, norm))
        _put(model, norm_name, nn.Identity())


def _folded(conv: Any, norm: Any) -> nn.Module:
    """A copy of a convolution that computes what the norm made of it."""
    if not isinstance(conv, Striped):
        turned = isinstance(conv, _ConvTransposeNd)
        plain: nn.Module = fuse_conv_bn_eval(conv, norm, turned)
        return plain
    found: Any = copy.deepcopy(conv)
    mean, var = norm.running_mean, norm.running_var
    bias = 0 if conv.bias is None else conv.bias
    scale = (var + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight
    bias = (bias - mean) * scale + (norm.bias if norm.affine else 0)
    # A row of the weight, [rows, in, 1, ...], is of one filter.
    rows = scale[conv.filters].view(-1, *[1] * (conv.weight.dim() - 1))
    found.weight = nn.Parameter(conv.weight * rows, conv.weight.requires_grad)
    found.bias = nn.Parameter(bias, conv.weight.requires_grad)
    striped: nn.Module = found
    return striped


def find_folds(model: nn.Module, run: Callable[[], Any]) -> Iterator[Fold]:
    """Yields which norms read one convolution alone, and it is read alone.

    Args:
        model (nn.Module): In evaluation mode.
        run (Callable): Runs it.
    """
    with _Readers() as seen, _striped_outputs(model, seen):
        # Who called the network reads what it returns.
        seen.read(_tensors(run()))
    convs = _by_tensor(model, 'weight', _is_conv)
    norms = _by_tensor(model, 'running_mean', _is_plain_norm)
    # By weight: a convolution that runs several times has several outputs.
    readers = defaultdict(set)
    for weight, read in seen.uses():
        readers[weight].add(read)
    # By norm: what it reads must be this convolution at every call, for its
    # scale goes there.
    fed = defaultdict(set)
    for norm, weight in seen.normed:
        fed[norm].add(weight)
    for weight, conv in convs.items():
        # Every output of every call went to this norm, and nowhere else.
        # One that did not run has no reader at all.
        (norm, *others) = readers[weight] or {None}
        if norm in norms and not others and fed[norm] == {weight}:
            yield conv, norms[norm]


@contextmanager
def _striped_outputs(model: nn.Module, seen: _Readers) -> Iterator[None]:
    """Layers of stripes compute by other operators than convolutions."""

    def note(layer: Any, args: Any, output: Tensor) -> None:
        seen.made(output, layer.weight)

    striped = [m for m in model.modules() if isinstance(m, Striped)]
    handles = [layer.register_forward_hook(note) for layer in striped]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Readers(TorchDispatchMode):
    """Notes who reads the outputs of convolutions.

    Attributes:
        normed (list[tuple]): Statistics of a norm, and the weight of the
            convolution that it read, or None; as numbers of the objects.
    """

    def __init__(self) -> None:
        super().__init__()
        # id of an output: the output, which keeps its number as long as this
        # lives; the weight it came from; and who read it.
        self._made: dict[int, tuple[Tensor, int, list[int | None]]] = {}
        self.normed: list[tuple[int, int | None]] = []

    def uses(self) -> Iterator[tuple[int, int | None]]:
        """Yields the weight of every output and who alone read it."""
        for _, weight, readers in self._made.values():
            yield weight, readers[0] if len(readers) == 1 else None

    def made(self, output: Tensor, weight: Tensor) -> None:
        """Notes what a convolution put out.

        Args:
            output (Tensor): This.
            weight (Tensor): Of the convolution.
        """
        self._made[id(output)] = output, id(weight), []

    def read(self, values: Iterable[object], norm: int | None = None) -> None:
        """Notes who read some values: a norm, or None for all others.

        Args:
            values (Iterable[object]): What was read, tensors or not.
            norm (int, optional): Number of the statistics. Defaults to None.
        """
        for value in values:
            if id(value) in self._made:
                self._made[id(value)][2].append(norm)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs an operator and notes what it read."""
        out = func(*args, **(kwargs or {}))
        norm = _statistics(func, args)
        self.read(tree_leaves((args, kwargs)), norm)
        if norm is not None:
            source = self._made.get(id(args[0]))
            self.normed.append((norm, source[1] if source else None))
        if func is CONVOLUTION:
            self.made(out, args[1])
        return out


def _statistics(func: Any, args: tuple[Any, ...]) -> int | None:
    """Number of the mean that a norm subtracts; None of other operators."""
    # (input, weight, bias, running_mean, running_var, ...) of every backend.
    if 'batch_norm' not in str(func) or len(args) < 5:
        return None
    return id(args[3]) if isinstance(args[3], Tensor) else None


def _is_conv(module: nn.Module) -> bool:
    """Whether a layer is a convolution that can be fused."""
    # Of a transposed one the weight is [in, out / groups, ...]: torch scales
    # dimension 1 by [out], which is wrong for groups.
    grouped = isinstance(module, _ConvTransposeNd) and module.groups > 1
    return isinstance(module, _ConvNd) and not grouped


def _is_plain_norm(module: nn.Module) -> bool:
    """Whether a norm returns what the operator does, and nothing else."""
    return isinstance(module, _BatchNorm) and type(module).forward in (
        _BatchNorm.forward,
        nn.SyncBatchNorm.forward,
    )


def _by_tensor(
    model: nn.Module, leaf: str, fits: Callable[[nn.Module], bool]
) -> dict[int, str]:
    """Names of modules by the number of a tensor that is theirs alone."""
    found: dict[int, list[str]] = defaultdict(list)
    # Under all names: a layer that hangs in two places is replaced in one.
    for name, module in model.named_modules(remove_duplicate=False):
        tensor = getattr(module, leaf, None)
        if isinstance(tensor, Tensor):
            found[id(tensor)].append(name)
    return {
        number: names[0]
        for number, names in found.items()
        if len(names) == 1 and fits(model.get_submodule(names[0]))
    }


def _without_merged(
    model: nn.Module,
    plans: Sequence[ChannelPlan],
    merged: Mapping[str, str | None],
) -> list[ChannelPlan]:
    """Merged branches and their biases belong to the last plan."""
    if not plans:
        return []
    *former, last = plans
    biases = gained_biases(model, merged, last.shapes)
    plan = last.without_branches(merged, {}, sorted({*last.biases, *biases}))
    return [*former, replace(plan, costs={})]


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, leaf = name.rpartition('.')
    model.get_submodule(owner)._modules[leaf] = module


def _tensors(output: Any) -> list[Tensor]:
    return [t for t in tree_leaves(output) if isinstance(t, Tensor)]
