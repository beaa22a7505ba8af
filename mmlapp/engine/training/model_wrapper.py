# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Distributed data parallel training of a model that becomes smaller."""

from __future__ import annotations

from typing import Any

from mmengine.model import MMDistributedDataParallel
from torch import nn

from mmlapp.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class PruningDistributedDataParallel(MMDistributedDataParallel):
    """:class:`mmengine.model.MMDistributedDataParallel` that can be rebuilt.

    Narrowing replaces parameters; this wrapper then starts over in place,
    so that whoever holds it holds the right one. MMEngine's own wrapper works
    as well and is replaced by a new one. Runs on the CPU too, over gloo.

    Args:
        module (nn.Module): The model.
        device_ids (list[int], optional): As in
            ``DistributedDataParallel``; ignored for a model on the CPU.
            Defaults to None.
        broadcast_buffers (bool): Whether buffers are those of the first
            process. Defaults to False, as in MMEngine's runner.
        **kwargs (Any): Other arguments of ``MMDistributedDataParallel``.
    """

    def __init__(
        self,
        module: nn.Module,
        device_ids: list[int] | None = None,
        broadcast_buffers: bool = False,
        **kwargs: Any,
    ) -> None:
        on_cpu = next(module.parameters()).device.type == 'cpu'
        settings = dict(
            # torch refuses device ids of a model on the CPU.
            device_ids=None if on_cpu else device_ids,
            broadcast_buffers=broadcast_buffers,
            **kwargs,
        )
        super().__init__(module=module, **settings)
        self._settings = settings

    def rebuild(self) -> None:
        """Forgets the parameters known so far; takes those of the model."""
        training = self.training
        # Until it is gone, the old reducer listens to unchanged parameters.
        del self.reducer, self.logger
        self.__init__(self.module, **self._settings)  # type: ignore[misc]
        self.training = training
