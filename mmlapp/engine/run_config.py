# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a run needs of its config, before anything is built of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlapp.core import PruningError

from .config_files import A_DICT, MODEL_KINDS, Kinds, wrong_kinds

# What MMEngine's Runner wants together, all three or none: loader, loop, and
# what reads the outputs.
LOOPS = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}
SOME = (Mapping, Sequence), 'a dictionary, or a list of them'
A_PATH = (str, Path), 'a path'
# Settings of a run that are no plain values: their types, and these in words.
KINDS: Kinds = {
    **MODEL_KINDS,
    **{name: A_DICT for names in LOOPS.values() for name in names},
    'val_evaluator': SOME,
    'test_evaluator': SOME,
    'param_scheduler': SOME,
    'custom_hooks': ((Sequence,), 'a list of dictionaries'),
    'default_hooks': A_DICT,
    'env_cfg': A_DICT,
    'randomness': A_DICT,
    'work_dir': A_PATH,
    'load_from': A_PATH,
}
NAMES = {'train': 'training', 'test': 'a test'}
# By which a loop of no type of its own is as long, by its `by_epoch`.
LENGTHS = {True: 'max_epochs', False: 'max_iters'}


def check_run(cfg: Mapping[str, Any], kind: str, also: str = '') -> None:
    """Refuses a config that lacks what a run is built from.

    What settings within a part mean is left to those who build it.

    Args:
        cfg (Mapping): The config; not changed.
        kind (str): What is run, ``train`` or ``test``.
        also (str): What runs beside it if the config has it, such as
            ``val``. Defaults to nothing.

    Raises:
        PruningError: With the name of what is missing, or of another type.

    Examples:
        >>> check_run({'model': {'type': 'Net'}}, 'test')
        Traceback (most recent call last):
            ...
        mmlapp.core.errors.PruningError: config: it has no test_dataloader, \
no test_cfg and no test_evaluator, which a test needs beside the model
    """
    path = getattr(cfg, 'filename', None)
    said = f'config={path!r}' if path else 'config'
    for text in _wrong(cfg, kind, also):
        raise PruningError(f'{said}: {text}')


def _wrong(cfg: Mapping[str, Any], kind: str, also: str) -> Iterator[str]:
    """What a run cannot be built of, the first thing first."""
    yield from wrong_kinds(cfg, KINDS)
    if cfg.get('model') is None:
        yield 'it has no model'
    if 'runner_type' in cfg:
        return  # another runner, which may need other parts
    missing = _missing(cfg, LOOPS[kind])
    if missing:
        yield (
            f'it has {_none_of(missing)}, which {NAMES[kind]} needs beside '
            'the model'
        )
    yield from _halves(cfg)
    for name in filter(None, (kind, also)):
        yield from _loader(cfg, LOOPS[name][0])
    if kind == 'train':
        yield from _training(cfg)


def _missing(cfg: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [name for name in names if cfg.get(name) is None]


def _none_of(names: Sequence[str]) -> str:
    """``no a, no b and no c``."""
    *first, last = [f'no {name}' for name in names]
    return f'{", ".join(first)} and {last}' if first else last


def _halves(cfg: Mapping[str, Any]) -> Iterator[str]:
    """The Runner refuses them, also of a loop that is not run."""
    for names in LOOPS.values():
        missing = _missing(cfg, names)
        if 0 < len(missing) < len(names):
            there = next(name for name in names if name not in missing)
            yield (
                f'it has {there}, but {_none_of(missing)}: give all of '
                f'{", ".join(names)}, or none'
            )


def _loader(cfg: Mapping[str, Any], name: str) -> Iterator[str]:
    loader = cfg.get(name)
    if loader is not None and 'dataset' not in loader:
        yield f'{name} has no dataset'


def _training(cfg: Mapping[str, Any]) -> Iterator[str]:
    loop, wrapper = cfg['train_cfg'], cfg['optim_wrapper']
    if 'optimizer' not in wrapper and 'constructor' not in wrapper:
        yield 'optim_wrapper has no optimizer'
    own, by_epoch = 'type' in loop, 'by_epoch' in loop
    if own == by_epoch:
        found = 'both a type and by_epoch' if own else 'no type'
        yield (
            f'train_cfg has {found}: give one of type=..., such as '
            "'EpochBasedTrainLoop', and by_epoch=True or False"
        )
    elif by_epoch and LENGTHS[bool(loop['by_epoch'])] not in loop:
        length = LENGTHS[bool(loop['by_epoch'])]
        yield f'train_cfg has no {length}, the length of the training'
