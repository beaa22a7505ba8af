# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is known of blocks and of custom autograd functions, by their names.

By name, so that classes of other packages need not be imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from ...errors import PruningError

if TYPE_CHECKING:
    from ..tracer import Tracer

Adjust = Callable[[Any], None]
ModuleRule = Callable[['Tracer', Any, Sequence[Any], Any], None]
FunctionRule = Callable[['Tracer', Mapping[str, Any], Any], None]


def is_leaf(module: nn.Module) -> bool:
    """Whether a module has no modules inside."""
    return next(module.children(), None) is None


@dataclass(frozen=True)
class Block:
    """What is known of the modules of one class.

    Args:
        adjust (Callable, optional): Makes the attributes of a module follow
            its narrowed tensors. Defaults to None.
        cuts_by_attributes (bool): Whether the forward splits its channels
            where attributes say that ``adjust`` sets, so that the pieces
            need not stay equally wide. Defaults to False.
        rule (Callable, optional): Looks at what goes into a module and what
            comes out, in place of rules for its operators. Defaults to None.
        rule_applies (Callable): Whether the rule holds for a module; others
            of the name may be built otherwise. Defaults to ``is_leaf``.
    """

    adjust: Adjust | None = None
    cuts_by_attributes: bool = False
    rule: ModuleRule | None = None
    rule_applies: Callable[[nn.Module], bool] = is_leaf


BLOCKS: dict[str, Block] = {}
FUNCTIONS: dict[str, FunctionRule] = {}


def register_block(
    *names: str,
    adjust: Adjust | None = None,
    cuts_by_attributes: bool = False,
    rule: ModuleRule | None = None,
    rule_applies: Callable[[nn.Module], bool] = is_leaf,
) -> None:
    """Tells what is known of a block, for its class and all below it.

    Without a registration a block is followed operator by operator. That is
    enough unless its forward reads channel numbers from attributes, or it
    computes over its channels. What a name was registered with before is
    replaced.

    Args:
        *names (str): Names of the classes, without their package. With it, as
            ``torch.nn.modules.activation.ReLU``, no other class of the name
            is meant.
        adjust (Callable, optional): Gets a module whose tensors, and those
            of its children, have been narrowed, and sets the attributes that
            its forward reads. Defaults to None.
        cuts_by_attributes (bool): Whether the forward splits its channels
            where attributes say that ``adjust`` sets. Then any channel of
            any piece may go; otherwise a cut ties or freezes what it cuts.
            Defaults to False.
        rule (Callable, optional): Called with the tracer, the module, its
            arguments in the order of its forward and its output, in place of
            rules for the operators inside. Defaults to None.
        rule_applies (Callable): Whether ``rule`` holds for a module of the
            name. Defaults to whether it has no modules inside.

    Raises:
        PruningError: If nothing is told, or if cuts should follow attributes
            that nobody sets.

    Examples:
        >>> def adjust(module):
        ...     module.width = module.left.in_channels
        >>> register_block(
        ...     'DocTwoPaths', adjust=adjust, cuts_by_attributes=True
        ... )
    """
    if not names or (adjust is None and rule is None):
        raise PruningError(
            f'register_block{names} tells nothing; give the name of a class '
            'and `adjust`, `rule` or both'
        )
    if cuts_by_attributes and adjust is None:
        raise PruningError(
            'cuts_by_attributes=True needs `adjust`, to set the attributes '
            f'that say where {names[0]} cuts'
        )
    block = Block(adjust, cuts_by_attributes, rule, rule_applies)
    BLOCKS.update(dict.fromkeys(names, block))


def register_function(*names: str, rule: FunctionRule) -> None:
    """Tells what custom autograd functions do whose kernels are hidden.

    Args:
        *names (str): Names of the classes, without their package.
        rule (Callable): Called with the tracer, the arguments of
            ``forward`` by name, and its output.
    """
    FUNCTIONS.update(dict.fromkeys(names, rule))


def adjust_attributes(module: nn.Module) -> None:
    """Makes a module's attributes follow its narrowed tensors.

    Args:
        module (nn.Module): The module; not its children.
    """
    for block in _known(module):
        if block.adjust is not None:
            # Elsewhere another class may have the name; if it then does not
            # run, the trial of the network finds that out.
            with suppress(AttributeError, IndexError, KeyError, TypeError):
                block.adjust(module)
            return


def is_known(module: nn.Module) -> bool:
    """Whether anything is known of a module's class or of its bases."""
    return any(True for _ in _known(module))


def cuts_follow(module: nn.Module) -> bool:
    """Whether a module will cut its channels elsewhere when narrowed."""
    return any(block.cuts_by_attributes for block in _known(module))


def rule_of(module: nn.Module) -> ModuleRule | None:
    """Returns the rule that a module is followed by as a whole, if any."""
    for block in _known(module):
        if block.rule is not None and block.rule_applies(module):
            return block.rule
    return None


def function_rule(name: str) -> FunctionRule | None:
    """Returns the rule of a custom autograd function, if any."""
    return FUNCTIONS.get(name)


def _known(module: nn.Module) -> Iterator[Block]:
    """Blocks of a module's class and of its bases, the nearest first.

    Each question asked of them goes to the first that knows an answer: a
    standardised convolution has a rule of its own and the attributes of any
    other convolution.
    """
    for base in type(module).__mro__:
        for name in (base.__name__, f'{base.__module__}.{base.__name__}'):
            if name in BLOCKS:
                yield BLOCKS[name]
