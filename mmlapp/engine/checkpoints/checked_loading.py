# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""MMEngine loads checkpoints, but damaged ones and code in them never.

Its own loader reads what ``torch.load`` calls unsafe all the same, and so runs
whatever code a file holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import CheckpointLoader, Runner

from ..hook_list import averaged_models
from ..models.weight_names import refusing_misfits
from .finite import LOADED, check_finite, infinite_buffers
from .pretrained import check_pretrained, pretrained_parts
from .reading import load_checkpoint

# Methods of a runner that load, by ``load_from``, ``resume`` or ``init_cfg``.
LOAD, INIT = 'load_checkpoint', '_init_model_weights'
LOADING = LOAD, INIT


@contextmanager
def checked_loading() -> Iterator[None]:
    """Lets MMEngine read local files by :func:`load_checkpoint` for a while.

    Files from the network, such as ``https://``, come by loaders of
    MMEngine's, which trust their source.
    """
    # The empty prefix fits what has no other one: a path.
    former = CheckpointLoader._get_checkpoint_loader('')
    CheckpointLoader.register_scheme('', load_from_checked_file, force=True)
    try:
        yield
    finally:
        CheckpointLoader.register_scheme('', former, force=True)


def load_from_checked_file(
    filename: str, map_location: Any = None
) -> dict[str, Any]:
    """Loads a local file, as a backend of MMEngine's.

    Args:
        filename (str): Its path.
        map_location (Any): See :func:`torch.load`. Defaults to None.

    Returns:
        dict: The checkpoint.

    Raises:
        PruningError: If it is damaged or would run code.
    """
    # Published weights are often in the format of torch before 1.6.
    path = Path(filename).expanduser()
    checkpoint = load_checkpoint(path, map_location, legacy=True)
    # What older releases wrote there MMEngine runs as code when it resumes.
    if isinstance(meta := checkpoint.get('meta'), dict):
        meta.pop('config', None)
    return checkpoint


def check_loading(runner: Runner, methods: Sequence[str] = LOADING) -> None:
    """Lets a runner load local files by :func:`load_checkpoint` alone.

    Narrow weights for the ``init_cfg`` of a wide part are refused as well,
    and checkpoints whose training had diverged.

    Args:
        runner (Runner): The runner, before it loads.
        methods (Sequence[str]): Those of its methods that load. Defaults to
            what loads and initialises weights.
    """
    # On this object alone; hooks of other kinds may have asked before.
    for name in methods:
        method = getattr(runner, name, None)
        if method is not None and not hasattr(method, 'loads_checked'):
            setattr(runner, name, _checked(runner, name, method))


def _checked(
    runner: Runner, name: str, method: Callable[..., Any]
) -> Callable[..., Any]:
    @wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        with checked_loading():
            if name == LOAD:
                return _load_finite(runner, method, *args, **kwargs)
            if name != INIT:
                return method(*args, **kwargs)
            check_pretrained(runner.model)
            with refusing_misfits(pretrained_parts(runner.model)):
                return method(*args, **kwargs)

    run.loads_checked = True  # type: ignore[attr-defined]
    return run


def _load_finite(
    runner: Runner, load: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """Loads, and refuses weights that are no numbers."""
    model = runner.model
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    infinite = infinite_buffers(model)
    with refusing_misfits([model]):
        loaded = load(*args, **kwargs)
    check_finite(model, infinite, reason=LOADED)
    for averaged in averaged_models(runner):
        check_finite(averaged.module, infinite, 'the average of ', LOADED)
    return loaded
