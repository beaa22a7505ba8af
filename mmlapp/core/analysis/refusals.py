# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Networks and examples that cannot be followed, refused with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map_only

from ..bypass.beside import Bypassed
from ..errors import PruningError
from ..snapshot import evaluated
from ..trace import Trace, leaves_in, running_modules, tensors_in, trace
from ..trace.paths import Path, WatchCalls
from ..units.striped import Striped
from .corner import ON_CORNER, Corner
from .inputs import varied

# Modules that no network may have: how to tell one, and what is said of it.
UNFIT: tuple[tuple[Callable[[nn.Module], bool], str], ...] = (
    (
        lambda module: hasattr(module, '_orig_mod'),
        'was made by torch.compile: prune it first and compile it afterwards',
    ),
    (
        lambda module: isinstance(module, Bypassed),
        'has a bypass from an earlier pruning, which would not be narrowed: '
        'call merge_bypasses(model) before. Where a bypass fills removed '
        'filters, the model cannot be pruned again',
    ),
    (
        lambda module: isinstance(module, Striped),
        'has lost stripes in an earlier pruning, and channels cannot be '
        'followed through what is left. Prune the dense network to both '
        'targets at once',
    ),
    (
        lambda module: isinstance(module, torch.jit.ScriptModule),
        'is a TorchScript module, whose parts cannot be changed: prune the '
        'module that it was made of',
    ),
)


def check_network(model: nn.Module) -> None:
    """Refuses what is wrapped, compiled, bypassed or not yet initialised.

    Args:
        model (nn.Module): The network.

    Raises:
        PruningError: With what to give instead.
    """
    kind = type(model).__name__
    if not isinstance(model, nn.Module):
        raise PruningError(f'model={kind}: expected an nn.Module')
    if isinstance(
        model, (nn.DataParallel, nn.parallel.DistributedDataParallel)
    ):
        raise PruningError(
            f'the model is wrapped in {kind}: prune model.module first and '
            'wrap it afterwards'
        )
    for name, module in model.named_modules():
        where = f'{name} of the model' if name else 'the model'
        for is_such, reason in UNFIT:
            if is_such(module):
                raise PruningError(f'{where} {reason}')
        for key, value in {**module._parameters, **module._buffers}.items():
            if value is not None:
                _check_tensor(f'{key} of {where}', value)


def _check_tensor(what: str, value: Tensor) -> None:
    if is_lazy(value):
        raise PruningError(
            f'{what} has no shape yet: run the model once before'
        )
    if value.is_inference():
        raise PruningError(
            f'{what} was made in torch.inference_mode, where nothing can be '
            'trained: build the model outside of it'
        )


def example_of(
    model: nn.Module, example: Tensor | tuple[Any, ...] | Callable[[], Any]
) -> Callable[[], Any]:
    """Returns a function that runs a network on an example.

    Tensors without contents get some, see ``inputs.py``.

    Args:
        model (nn.Module): The network.
        example (Tensor, tuple or Callable): Its input, its positional
            arguments, or the function.

    Raises:
        PruningError: If there is no tensor in it, or no element in any, or
            its attribute ``on_corner`` is no function.
    """
    if callable(example) and not isinstance(example, Tensor):
        _check_corner(getattr(example, ON_CORNER, None))
        return example
    args = example if isinstance(example, tuple) else (example,)
    found = list(tensors_in(args))
    if found and not any(tensor.numel() for tensor in found):
        shapes = [tuple(tensor.shape) for tensor in found]
        raise PruningError(
            f'example: its tensors of shape {shapes} have no elements, and '
            'nothing that is computed of them says anything. Give a batch of '
            'one or more'
        )
    if not found:
        raise PruningError(
            f'example={type(example).__name__}: there is no tensor in it. '
            'Give an input as it is trained on, a tuple of its arguments, or '
            'a function without arguments that runs it'
        )
    _check_meta(model, found)
    args = varied(model, tree_map_only(Tensor, _usual, args))
    return lambda: model(*args)


def _check_corner(own: Any) -> None:
    """Refuses what cannot run the network on a corner of its images."""
    if own is not None and not callable(own):
        raise PruningError(
            f'example.{ON_CORNER}={type(own).__name__}: expected a function '
            'without arguments that runs the network on a corner of its images'
        )


def _check_meta(model: nn.Module, given: Sequence[Tensor]) -> None:
    """Refuses a network without values with an example that has some."""
    named = [*model.named_parameters(), *model.named_buffers()]
    bare = [name for name, tensor in named if tensor.is_meta]
    if not bare or (len(bare) == len(named) and all(t.is_meta for t in given)):
        return
    raise PruningError(
        f'{bare[0]} of the model lies on the device meta, where it has no '
        'values, and the example does not: what they give has none either. '
        "Load the weights before (model.to_empty(device='cpu'), then "
        "load_state_dict), or move the example to 'meta' with all of the model"
    )


def _usual(tensor: Tensor) -> Tensor:
    """A tensor that may be changed in place outside of inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def checked(forward: Callable[[], Any]) -> Callable[[], Any]:
    """Returns the function with errors that say what to give instead.

    Args:
        forward (Callable): Runs a network on an example.
    """

    def run() -> Any:
        try:
            outputs = forward()
        except PruningError:
            raise
        except Exception as error:
            raise PruningError(
                'the network does not run on the example '
                f'({type(error).__name__}: {error}). Give an input as it is '
                'trained on, a tuple of its arguments, or a function without '
                'arguments that runs it'
            ) from error
        _refuse_iterators(outputs)
        if not any(True for _ in tensors_in(outputs)):
            raise PruningError(
                'the network returns no tensor on the example but '
                f'{type(outputs).__name__}: which channels must stay, for '
                'they leave it, cannot be known. Give a function that '
                'returns its outputs'
            )
        return outputs

    return run


def followed(model: nn.Module, forward: Callable[[], Any]) -> Trace:
    """Traces a network on its example, or says what it is that fails.

    Args:
        model (nn.Module): The network.
        forward (Callable): Runs it on an example.

    Raises:
        PruningError: If it does not run, or runs and cannot be followed.
    """
    known = {name for name, _ in model.named_parameters()}
    run = checked(forward)

    def unchanged() -> Any:
        outputs = run()
        made = [n for n, _ in model.named_parameters() if n not in known]
        if made:
            raise PruningError(
                f'{made[0]} is a parameter that the model makes when it runs: '
                'run the model once before'
            )
        return outputs

    try:
        return trace(model, unchanged)
    except PruningError as error:
        cause = error.__cause__
        if cause is None:
            raise
        # torch.cond compiles itself, and keeps that it failed in the trace:
        # the network would never run again.
        torch.compiler.reset()
        if not _runs(model, forward):
            raise
        raise PruningError(
            'the network runs on the example, and its channels cannot be '
            f'followed there ({type(cause).__name__}: {cause}). Let it do '
            'without nested tensors, torch.cond and the like where it is '
            'analysed: give an example, or a function that runs it, in which '
            'it does not come to them'
        ) from cause


def _runs(model: nn.Module, forward: Callable[[], Any]) -> bool:
    # All of them: torch.cond does not run where somebody looks at operators.
    tensors = (*model.parameters(), *model.buffers())
    values = [tensor.detach().clone() for tensor in tensors]
    try:
        with evaluated(model):
            forward()
    except Exception:
        return False
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
    return True


def _refuse_iterators(outputs: Any) -> None:
    """What comes out of them is made when somebody asks for it."""
    for leaf in leaves_in(outputs):
        if isinstance(leaf, Iterator):
            raise PruningError(
                f'the network returns a {type(leaf).__name__} on the example: '
                'what comes out of it, and must stay, cannot be known before '
                'it runs. Give a function that returns a list of it'
            )


def check_repeats(
    model: nn.Module, forward: Callable[[], Any], record: Trace
) -> bool:
    """Runs a network again: it must call the same modules in the same order.

    What only some of its calls do would not have been followed.

    Args:
        model (nn.Module): The network; it is put back as it was.
        forward (Callable): Runs it on the example.
        record (Trace): Of how it ran before.

    Returns:
        bool: False if its images are large, and on a corner of them it does
        not do so, or does not ask for all numbers of channels that it asked
        for before.

    Raises:
        PruningError: If other ones run; with the first difference.
    """
    # On a corner of the images it costs little. What runs otherwise there may
    # do so for their size.
    corner, calls = Corner(model), record.order
    path = Path()
    try:
        with WatchCalls(path):
            again = _calls(model, forward, corner)
    except Exception:
        if not corner.large:
            raise
        again = []
    alike = again == calls and not record.path.asks_alone(path)
    whole = corner.large and not alike
    if whole:
        again = _calls(model, forward)
    # The shorter one goes on with None, so that an extra call shows too.
    for first, second in zip_longest(calls, again):
        if first != second:
            raise PruningError(
                'the network calls other modules at every forward '
                f'({_called(first)} once, {_called(second)} then): its '
                'channels cannot be followed. Let what it calls in '
                'evaluation mode depend on nothing but the input'
            )
    return not whole


def _calls(
    model: nn.Module,
    forward: Callable[[], Any],
    corner: Corner | None = None,
) -> list[str]:
    """Names of the modules that run, in order."""
    names = {module: name for name, module in model.named_modules()}
    found: list[str] = []
    with (
        evaluated(model),
        running_modules(names, lambda m: found.append(names[m])) as running,
        corner.cutting(running) if corner else nullcontext(),
    ):
        (corner.of(forward) if corner else forward)()
    return found


def _called(name: str | None) -> str:
    return 'none' if name is None else repr(name)
