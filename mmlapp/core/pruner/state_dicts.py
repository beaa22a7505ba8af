# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How what a pruner holds is saved, loaded and moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..default_device import on_cpu
from ..progress import Phase
from .saved import PROGRESS, SavedPhase, read_phase
from .stability import KEPT, RULE
from .state import PrunerState


class SavedState(PrunerState):
    """A pruner's state in state dicts and on devices.

    Takes the arguments of :class:`PrunerState`.
    """

    def _apply(self, fn: Any, recurse: bool = True) -> SavedState:
        """Follows the network to its device; types stay as they are.

        Counts and costs need their range, and a buffer that learns must be
        a leaf again after it was moved.
        """
        before = {
            (prefix, module, name): value
            for prefix, module in self.named_modules()
            for name, value in module._buffers.items()
        }
        super()._apply(fn, recurse)
        for (prefix, module, name), value in before.items():
            moved = module._buffers[name]
            if moved is None or value is None or moved is value:
                continue
            place = f'{prefix}.{name}'
            if not value.is_meta and moved.is_meta:
                self._before_meta[place] = value
            elif value.is_meta and not moved.is_meta:
                value = self._before_meta.pop(place, value)
            # Only the device of what `fn` made is taken, not its type. A
            # tensor made on meta has no values: what `fn` made stays.
            if value.device.type != 'meta':
                moved = value.detach().to(moved.device)
            module._buffers[name] = moved.detach().requires_grad_(
                value.requires_grad
            )
        self._host_costs = {}
        return self

    @on_cpu()
    def _save_to_state_dict(
        self, destination: Any, prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # The tensor, not a copy: state dicts share memory with the buffers.
        destination[f'{prefix}{PROGRESS}'] = self._stored
        if self.stability is not None and self.phase == Phase.PRUNING:
            for name, value in self.stability.to_tensors().items():
                destination[f'{prefix}{name}'] = value

    def read(
        self, state_dict: Mapping[str, Any], prefix: str
    ) -> SavedPhase | None:
        """Reads a state, and takes nothing of it.

        Args:
            state_dict (Mapping): Of the network.
            prefix (str): Of the pruner's names in it.

        Raises:
            PruningError: See :func:`read_phase`.
        """
        return read_phase(state_dict, prefix, self.costs, len(self.gate))

    @on_cpu()
    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        *args: Any,
    ) -> None:
        if self._is_dense(state_dict, prefix):
            # The method and costs read theirs from the same dictionary; who
            # loads made it for this pruner.
            state_dict.update(self.state_dict(prefix=prefix, keep_vars=True))
            return
        self.loading = False
        saved = self.read(state_dict, prefix)
        self._host_costs = {}
        # No buffer has such a name: torch would report it as unexpected.
        own = {f'{prefix}{name}' for name in (PROGRESS, RULE, KEPT)}
        super()._load_from_state_dict(
            {k: v for k, v in state_dict.items() if k not in own},
            prefix,
            local_metadata,
            strict,
            missing_keys,
            *args,
        )
        if saved is not None:
            self.progress, self.stability = saved.progress, saved.stability
            # As `begin` and `finish` would have left it.
            learns = self.phase == Phase.PRUNING and self.uses_gradient
            self.gate.requires_grad_(learns)
        elif strict:
            missing_keys.append(f'{prefix}{PROGRESS}')
        if f'{prefix}gate' in state_dict:
            self.active = True

    def _is_dense(self, state_dict: Any, prefix: str) -> bool:
        """Whether weights of a dense network come, and nothing was pruned.

        What they lack of the pruner is then no fault of theirs.
        """
        known = any(name.startswith(prefix) for name in state_dict)
        if known or not prefix or self.phase != Phase.DENSE:
            return False
        return self.gate.is_meta or bool(self.mask.all())
