# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A config and a checkpoint in several formats, with a status for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mmengine.config import Config
from torch import Tensor, nn

from mmlapp.core import PruningError, fuse
from mmlapp.core.arguments import choose_from

from ..models.default_scope import default_scope_of
from ..models.plans import plans_of
from ..output_files import check_apart, check_folder_of
from .base import EXPORTERS, Settings
from .files import Exported, export
from .handover import HANDOVERS, Slim, hand_over
from .mmdeploy import mmdeploy_command
from .network import Network
from .onnx_file import INPUT
from .pictures import Example, example_images, preprocessing
from .trained import dense_model, trained_model


@dataclass(frozen=True)
class Status:
    """What became of one format.

    Args:
        name (str): Of the format.
        path (Path): Its file.
        made (Exported, optional): What was written; None if it failed.
        reason (str): Why it failed; empty if it did not.
    """

    name: str
    path: Path
    made: Exported | None = None
    reason: str = ''

    @property
    def remark(self) -> str:
        """Why there is no file, or what to know of it; often nothing."""
        if self.made is None or not self.made.undecided:
            return self.reason
        return (
            f'{self.made.undecided} values are others than in PyTorch, about '
            'which rounding decides in the network itself: in double '
            'precision it has others, too'
        )


@dataclass(frozen=True)
class Report:
    """What became of all formats.

    Args:
        part (str): What of the model was exported.
        inputs (str): What the files read.
        names (list[str]): Of the outputs.
        images (str): On what they were compared.
        statuses (list[Status]): One for each format.
        mmdeploy (str): Command for the whole detector; empty if there is
            none.
        notes (list[str]): Other remarks.
    """

    part: str
    inputs: str
    names: list[str]
    images: str
    statuses: list[Status]
    mmdeploy: str
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every format was written and agrees."""
        return all(status.made is not None for status in self.statuses)


def export_checkpoint(
    cfg: Config,
    checkpoint: str | Path,
    out: str | Path,
    formats: Sequence[str] = ('onnx',),
    settings: Settings = Settings(),  # noqa: B008, frozen
    fused: bool = False,
    force: bool = False,
    shape: Sequence[int] | None = None,
    pictures: Sequence[str | Path] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """Writes a trained model, slim or dense, in several formats.

    Args:
        cfg (Config): A deployed config, any config of mmpretrain or mmdet,
            or that of a pruning run whose checkpoint is narrow.
        checkpoint (str or Path): The checkpoint that belongs to it.
        out (str or Path): The files without suffix.
        formats (Sequence[str]): ``onnx``, ``torch_export``, ``torchscript``,
            ``plain``, ``safetensors``, or a registered name. Defaults to
            ``onnx``.
        settings (Settings): How. Defaults to an open batch.
        fused (bool): Whether to merge branches and fold norms first.
            Defaults to False.
        force (bool): Whether to replace files. Defaults to False.
        shape (Sequence[int], optional): Channels, height and width of the
            images. Defaults to None: those of the config's test data.
        pictures (Sequence[str or Path]): To compare on, instead of the
            config's test data. Defaults to none.
        progress (Callable): Is told what is being done. Defaults to nothing.

    Returns:
        Report: One status for each format; one that fails stops no other.

    Raises:
        PruningError: If a format is unknown, there is no folder for the
            files, one would be written over what is read, or before any is
            written.
    """
    # All names first: to build a model may take long.
    check_folder_of('out', Path(out))
    paths = {name: path_of(Path(out), name) for name in formats}
    for path in paths.values():
        check_apart('out', path, [cfg.filename, checkpoint, *pictures])
    _check_settings(settings, formats)
    with default_scope_of(cfg):
        progress('loading the model')
        model = trained_model(cfg, checkpoint)
        example = example_images(cfg, model, shape, pictures)
        images = example.images
        slim = _slim(cfg, Network.find(model, images), images, fused)
        statuses = []
        for name, path in paths.items():
            progress(f'writing and running {name}')
            statuses.append(_status(slim, images, name, path, settings, force))
        network = slim.network
        return Report(
            part=network.part,
            inputs=_inputs(cfg, model, example),
            names=network.names,
            images=example.text,
            statuses=statuses,
            mmdeploy=mmdeploy_command(
                model, cfg.filename or 'CONFIG', checkpoint, Path(out)
            ),
            notes=[f'{len(slim.folds)} norms were folded'] if fused else [],
        )


def _inputs(cfg: Config, model: nn.Module, example: Example) -> str:
    # [example, c, h, w]: how many images there are stays open.
    size = ', '.join(map(str, example.images.shape[1:]))
    return (
        f'{INPUT}, float32 [n, {size}]: {preprocessing(cfg, model, example)}'
    )


def path_of(out: Path, name: str) -> Path:
    """Returns the file of a format.

    Args:
        out (Path): Its path without suffix.
        name (str): Of the format.

    Raises:
        PruningError: If there is none of this name, with the nearest one, or
            the path names no file.

    Examples:
        >>> path_of(Path('slim'), 'torch_export').name
        'slim.pt2'
    """
    known = {**{n: EXPORTERS[n].suffix for n in EXPORTERS}, **HANDOVERS}
    if name not in known:
        raise PruningError(
            f'format={name!r} is unknown; {choose_from(known, str(name))}'
        )
    if not out.name:
        raise PruningError(
            f'out={str(out)!r} names no file; give its path without suffix'
        )
    # Whoever names the file itself, slim.onnx, means slim.
    if out.suffix in known.values():
        out = out.with_suffix('')
    return out.with_name(f'{out.name}{known[name]}')


def _check_settings(settings: Settings, formats: Sequence[str]) -> None:
    """Every setting must have an effect on one of the formats."""
    # State dicts, the other formats, take no settings.
    able = [name for name in formats if name in EXPORTERS]
    taken = {each for name in able for each in EXPORTERS[name].takes}
    settings.check_taken(taken, f'formats={list(formats)}')


def _slim(cfg: Config, network: Network, images: Tensor, fused: bool) -> Slim:
    plans, dense = plans_of(network.model), partial(dense_model, cfg)
    if not fused:
        return Slim(network, plans, (), dense)
    found = fuse(network.model, lambda own: network.run(own, images), plans)
    return Slim(network.of(found.model), found.plans, found.folds, dense)


def _status(
    slim: Slim,
    images: Tensor,
    name: str,
    path: Path,
    settings: Settings,
    force: bool,
) -> Status:
    """Writes one format; an error of it is its status."""
    try:
        if name in HANDOVERS:
            made = hand_over(slim, images, path, name, force)
        else:
            own = slim.network
            # Of one format those that it knows: --slim is of ONNX alone.
            options = settings.only(EXPORTERS[name].takes)
            made = export(own, images, path, own.names, options, force)
    except PruningError as error:
        return Status(name, path, reason=str(error))
    return Status(name, path, made)
