# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Names of weights: what wrappers add to them, and whether a model has them.

MMEngine loads what it finds a name for, says the rest in its log, and trains
or tests a random network where nothing was found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from mmlapp.core import PruningError
from mmlapp.core.plan.carried import KEY

# What torch.compile and distributed wrappers put before the names of a module.
COMPILED, WRAPPED = '_orig_mod', 'module.'
# Of which a file says nothing as long as the rest is that of a dense network.
PRUNER = 'pruner.'
# A file of which a smaller share fits a model is not of that model.
LEAST = 0.1


def uncompiled(name: Any) -> str:
    """Returns the name that a weight has before torch.compile.

    Args:
        name (str): As a state dict has it.

    Examples:
        >>> uncompiled('_orig_mod.backbone.conv1.weight')
        'backbone.conv1.weight'
    """
    return '.'.join(p for p in str(name).split('.') if p != COMPILED)


def rename_compiled(weights: Any) -> None:
    """Takes off what torch.compile adds to names, for whoever loads them.

    Args:
        weights (MutableMapping): State dict; changed in place, if that is
            needed. Whatever else a file may hold stays as it is.
    """
    if not isinstance(weights, MutableMapping):
        return
    if any(COMPILED in str(name) for name in weights):
        found = {uncompiled(name): value for name, value in weights.items()}
        weights.clear()
        weights.update(found)


def weights_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Returns the weights of a checkpoint by the names of the bare model.

    MMEngine takes off the name of a wrapper when it loads them, too late for
    those who look at them before.

    Args:
        checkpoint (dict): A checkpoint of MMEngine, or weights alone; names
            from torch.compile are changed in it, those of a wrapper are not.

    Raises:
        PruningError: If it has none.

    Examples:
        >>> weights_of({'module.fc.bias': 0, 'head.module.bias': 1})
        {'fc.bias': 0, 'head.module.bias': 1}
    """
    weights = checkpoint.get('state_dict', checkpoint)
    if not isinstance(weights, MutableMapping):
        raise PruningError(
            f'the state_dict of the checkpoint is a {type(weights).__name__}: '
            'expected tensors by name. Give another checkpoint'
        )
    if not weights:
        raise PruningError(
            'the state_dict of the checkpoint is empty: give one with weights'
        )
    rename_compiled(weights)
    return {
        str(name).removeprefix(WRAPPED): value
        for name, value in weights.items()
    }


def refuse_misfits(module: nn.Module, incompatible: Any) -> None:
    """Refuses weights of which a model has taken next to nothing.

    Some may be missing, and some be left over: a backbone alone, a head for
    other classes. A hook that torch and MMEngine call once weights are loaded,
    by the names to which a model has changed those of a file.

    Args:
        module (nn.Module): Who got them.
        incompatible (Any): Names that were missing and that were unexpected.

    Raises:
        PruningError: With names of both, and what would make them fit.
    """
    state = module.state_dict()
    if not state.keys() >= set(incompatible.missing_keys):
        return  # the names are those of a whole, of which this is a part
    # Counters are in any file.
    own = _counted(n for n, v in state.items() if getattr(v, 'ndim', 0))
    missing = own & set(incompatible.missing_keys)
    others = _counted(incompatible.unexpected_keys)
    # The file has the names that were taken and the unexpected ones. Of the
    # smaller of file and model a good part fits if one is a part of the other
    # or a head differs; where next to none does, all names are other ones.
    taken = len(own) - len(missing)
    if not others or taken > LEAST * min(len(own), taken + len(others)):
        return
    raise PruningError(
        f'the weights (load_from, resume, checkpoint or init_cfg): {taken} of '
        f'them fit this {type(module).__name__}, and {len(others)} do not. '
        f'These are called {_some(others)}, those of the model '
        f'{_some(missing)}. {_remedy(missing, others)}'
    )


def check_shapes(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """Refuses weights of the right names, of which next to none fit.

    MMEngine leaves out what has other shapes, such as a head for other
    classes.

    Args:
        model (nn.Module): Who gets them.
        weights (Mapping): By their names.

    Raises:
        PruningError: With the first that does not fit.
    """
    pairs = {
        name: (tuple(weights[name].shape), tuple(own.shape))
        for name, own in model.state_dict().items()
        if isinstance(weights.get(name), Tensor) and own.ndim
    }
    others = [name for name, (found, own) in pairs.items() if found != own]
    fitting = len(pairs) - len(others)
    if others and fitting <= LEAST * len(pairs):
        found, own = pairs[others[0]]
        raise PruningError(
            'the weights (load_from, resume, checkpoint or init_cfg): of '
            f'{len(pairs)} with a name of this {type(model).__name__} '
            f'{fitting} have its shape, and the others would be left out, '
            f'such as {others[0]} of shape {found}, in the model {own}. '
            'Give a checkpoint of this architecture'
        )


@contextmanager
def refusing_misfits(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Lets modules refuse weights that are not theirs, for a while.

    Args:
        modules (Iterable[nn.Module]): Who may get some.
    """
    with ExitStack() as stack:
        for module in modules:
            hook = module.register_load_state_dict_post_hook(refuse_misfits)
            stack.callback(hook.remove)
        yield


def _counted(names: Iterable[str]) -> set[str]:
    return {n for n in names if not n.startswith(PRUNER) and n != KEY}


def _some(names: Iterable[str]) -> str:
    return ', '.join(sorted(names)[:3]) or 'nothing at all'


def _remedy(own: set[str], found: set[str]) -> str:
    if prefix := _prefix(found, own):
        return (
            f'Without {prefix!r} they are those of the model: save the file '
            f'with such names, or say prefix={prefix!r} in an init_cfg'
        )
    if prefix := _prefix(own, found):
        return (
            f'With {prefix!r} before them they are those of the model: save '
            'the file with such names, or name it in the init_cfg of that '
            "part, dict(type='Pretrained', checkpoint=...)"
        )
    return 'Give a checkpoint of this architecture'


def _prefix(longer: set[str], shorter: set[str]) -> str:
    """Returns what some names lack to be most of the others, or nothing."""
    # backbone.layer1.conv.weight: `backbone.` and `backbone.layer1.`
    starts = {
        f'{".".join(name.split(".")[:count])}.'
        for name in longer
        for count in (1, 2)
    }
    cut = {
        start: {n.removeprefix(start) for n in longer if n.startswith(start)}
        for start in sorted(starts)
    }
    # Names that the others have, too, once a start is taken off; the best
    # start is the answer if it explains more than half of them.
    common = {start: len(names & shorter) for start, names in cut.items()}
    best = max(common, key=lambda start: common[start], default='')
    return best if 2 * common.get(best, 0) > len(shorter) else ''
