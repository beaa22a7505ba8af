# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Files that a command line names: configs and checkpoints."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from mmlapp.core import PruningError
from mmlapp.core.handover.archive import describe, is_archive, is_legacy

# By name of a setting: what types it may have, and these in words.
Kinds = Mapping[str, tuple[tuple[type, ...], str]]
# What Config.fromfile reads.
SUFFIXES = '.py', '.yml', '.yaml', '.json'
A_DICT = (Mapping,), 'a dictionary'
# Settings that a model is built from: their types, and these in words.
MODEL_KINDS: Kinds = {
    'model': A_DICT,
    'model.data_preprocessor': A_DICT,
    'data_preprocessor': A_DICT,
    'default_scope': ((str,), "the name of a package, such as 'mmdet'"),
}


class Options(DictAction):
    """``KEY=VALUE`` arguments; another form is a usage error."""

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Reads them.

        Args:
            parser (ArgumentParser): The parser.
            namespace (Namespace): What it has found.
            values (list[str]): The arguments.
            option_string (str, optional): Name of the option. Defaults to
                None.
        """
        for value in values:
            # MMEngine would take it apart into a name and a value, and end
            # with a traceback.
            if '=' not in value:
                parser.error(f'{option_string} {value}: expected KEY=VALUE')
        super().__call__(parser, namespace, values, option_string)


def add_config_arguments(parser: ArgumentParser) -> None:
    """Adds what every tool understands: a config, and changes of it.

    Args:
        parser (ArgumentParser): The parser to extend.
    """
    parser.add_argument(
        'config',
        help='path of the config, or package::path of one that a package '
        'comes with, such as mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        metavar='KEY=VALUE',
        help='settings of the config to replace, such as '
        'train_dataloader.batch_size=64 or key="[(a,b),(c,d)]" (quoted, '
        'without blanks)',
    )


def add_pruning_arguments(parser: ArgumentParser) -> None:
    """Adds what tools ask of pruning without a word in the config.

    Args:
        parser (ArgumentParser): The parser to extend.
    """
    parser.add_argument(
        '--scope',
        nargs='+',
        metavar='PATTERN',
        help='names of modules that may be pruned, such as backbone',
    )
    parser.add_argument(
        '--input-shape',
        nargs=3,
        type=int,
        metavar=('CHANNELS', 'HEIGHT', 'WIDTH'),
        help='the image at which FLOPs are counted',
    )


def given(args: Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Returns those of some arguments that a command line has.

    Args:
        args (Namespace): What was parsed.
        names (Iterable[str]): Of the arguments.
    """
    return {
        name: value
        for name in names
        # None is what argparse has for options that were left out.
        if (value := getattr(args, name)) is not None
    }


def read_config(
    name: str | Path, options: Mapping[str, Any] | None = None
) -> Config:
    """Reads a config.

    Args:
        name (str or Path): Its path, or ``package::path`` as in ``_base_``.
        options (Mapping, optional): Values to replace, by dotted names.
            Defaults to None.

    Raises:
        PruningError: With the name, and why it cannot be read.
    """
    path = find_config(name)
    try:
        # A config is code of the user, and can fail in every way.
        cfg = Config.fromfile(path)
    except Exception as error:
        raise PruningError(
            f'config={str(name)!r} cannot be read: '
            f'{type(error).__name__}: {error}'
        ) from error
    try:
        cfg.merge_from_dict(dict(options or {}))
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise PruningError(
            f'--cfg-options {options}: they do not fit the config {name} '
            f'({type(error).__name__}: {error})'
        ) from error
    return cfg


def read_model_config(
    name: str | Path, options: Mapping[str, Any] | None = None
) -> Config:
    """Reads the config of a model.

    Args:
        name (str or Path): See :func:`read_config`; so are the options.
        options (Mapping, optional): Values to replace. Defaults to None.

    Raises:
        PruningError: As :func:`read_config`, or if there is no model in it,
            or something of it is of another type than it must be.
    """
    cfg = read_config(name, options)
    found = cfg.get('model')
    if not isinstance(found, Mapping):
        what = 'no model' if found is None else f'model={found!r:.80}'
        raise PruningError(
            f'config={str(name)!r} has {what}: give the config of a model of '
            'mmpretrain or mmdet, or one that tools/deploy.py wrote'
        )
    for text in wrong_kinds(cfg, MODEL_KINDS):
        raise PruningError(f'config={str(name)!r}: {text}')
    return cfg


def wrong_kinds(cfg: Any, kinds: Kinds) -> Iterator[str]:
    """Yields which settings of a config are of another type than expected.

    Args:
        cfg (Config or Mapping): The config.
        kinds (Mapping): From dotted names to types, and what these are in
            words.

    Yields:
        str: One for each, with its value. What is not there is not wrong.

    Examples:
        >>> list(wrong_kinds({'model': {'a': 3}}, {'model.a': A_DICT}))
        ['model.a=3: expected a dictionary']
    """
    for name, (types, expected) in kinds.items():
        value = cfg
        for part in name.split('.'):
            value = value.get(part) if hasattr(value, 'get') else None
        # A text is a sequence, too.
        fits = isinstance(value, types) and (
            str in types or not isinstance(value, str)
        )
        if value is not None and not fits:
            yield f'{name}={value!r:.80}: expected {expected}'


def find_config(name: str | Path) -> Path:
    """Returns the path of a config.

    Args:
        name (str or Path): See :func:`read_config`.

    Raises:
        PruningError: If there is no such file, or it is no config.
    """
    said, package, inner = f'config={str(name)!r}', *_split(name)
    path = Path(inner)
    if package:
        path = _folder(said, package) / inner
        if not path.is_file():
            # As `_base_` has it: with or without the suffix.
            path = path.with_name(f'{path.name}.py')
    if not path.is_file():
        kind = 'is a folder' if path.is_dir() else 'does not exist'
        raise PruningError(f'{said}: {path} {kind}; give the path of a config')
    if path.suffix not in SUFFIXES:
        if is_archive(path) or is_legacy(path):
            raise PruningError(
                f'{said} is a checkpoint: the config comes first, then the '
                'checkpoint'
            )
        raise PruningError(
            f'{said}: expected a file of type {", ".join(SUFFIXES)}'
        )
    return path


def _split(name: str | Path) -> tuple[str, str]:
    """Package and path within its configs; no package for a plain path."""
    package, mark, inner = str(name).partition('::')
    return (package, inner) if mark else ('', str(name))


def _folder(said: str, package: str) -> Path:
    """Where an OpenMMLab package keeps its configs once it is installed."""
    # Of a name with dots find_spec would import the parents.
    found = find_spec(package) if package.isidentifier() else None
    if found is None or found.origin is None:
        raise PruningError(
            f'{said}: no package {package!r} is installed. Install it, or '
            'give the path of a config'
        )
    return Path(found.origin).parent / '.mim' / 'configs'


def check_local(argument: str, path: str | Path) -> None:
    """Refuses an address where a file is read that must be here.

    Args:
        argument (str): Name of the argument, for the error text.
        path (str or Path): The file.

    Raises:
        PruningError: With the address.
    """
    if '://' in str(path):
        raise PruningError(
            f'{argument}={str(path)!r} is an address, and only files are read '
            'here: download it, and give its path'
        )


def check_checkpoint(argument: str, path: str | Path) -> None:
    """Refuses what cannot be a checkpoint, before a model is built.

    Args:
        argument (str): Name of the argument, for the error text.
        path (str or Path): The file; addresses such as ``https://`` are left
            to MMEngine.

    Raises:
        PruningError: With the path, and what is there.
    """
    if '://' in str(path):
        return
    said = f'{argument}={str(path)!r}'
    if Path(path).is_dir():
        raise PruningError(
            f'{said} is a folder: give one of its checkpoints, such as the '
            'one that its file last_checkpoint names'
        )
    if not Path(path).is_file():
        raise PruningError(f'{said}: there is no such file')
    if not (is_archive(path) or is_legacy(path)):
        raise PruningError(f'{said} is no checkpoint: {describe(path)}')
