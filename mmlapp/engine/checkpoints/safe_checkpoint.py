# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are there as a whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mmlapp.core import PruningError
from mmlapp.core.files import remove_leftovers, replace_file, replace_text
from mmlapp.registry import HOOKS

from ..hook_list import replace_hook


def _saves_as_a_whole(
    save: Callable[..., None],
) -> Callable[..., None]:
    """Wraps ``Runner.save_checkpoint``."""

    @wraps(save)
    def run(out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        # The runner's method writes in the main process alone, which then is
        # the one that renames.
        if not is_main_process():
            return
        path = Path(out_dir, filename)

        def write(temporary: Path) -> None:
            save(out_dir, temporary.name, *args, **kwargs)

        try:
            replace_file(path, write)
        except OSError as error:
            raise PruningError(
                f'checkpoint={str(path)!r} could not be written ({error}). '
                'One before it is complete, if there is any: make room, then '
                'resume'
            ) from error

    run.whole = True  # type: ignore[attr-defined]
    return run


def leave_out_functions(checkpoint: dict[str, Any]) -> None:
    """Takes functions out of the states of schedulers, in place.

    That of ``OneCycleLR`` has the one that it anneals with, which no file can
    hold that is read without running code. A scheduler that is resumed has
    its own.

    Args:
        checkpoint (dict): A checkpoint that is about to be saved.
    """
    found = checkpoint.get('param_schedulers', [])
    groups = found.values() if isinstance(found, dict) else [found]
    for states in groups:
        for state in states:
            for key in [
                key for key, value in state.items() if callable(value)
            ]:
                del state[key]


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """:class:`mmengine.hooks.CheckpointHook` that a crash cannot hurt.

    MMEngine writes checkpoints and ``last_checkpoint`` in place, and removes
    an outdated checkpoint before it writes the new one. This hook writes
    under a temporary name and renames, and removes last.
    :class:`PruningHook` puts it in the place of MMEngine's own; other runs
    name it in their config. On storage that is no local folder it does what
    MMEngine's does.

    Takes the arguments of ``CheckpointHook``.
    """

    @classmethod
    def instead_of(cls, hook: CheckpointHook) -> SafeCheckpointHook:
        """Returns one with all settings of another one, and its priority.

        Args:
            hook (CheckpointHook): The other one; stays as it is.
        """
        safe = cls()
        # Some arguments are not kept as they were given.
        vars(safe).update(vars(hook))
        return safe

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Leaves out what could not be read again.

        Args:
            runner (Runner): The runner of the training process.
            checkpoint (dict): The checkpoint to be saved.
        """
        leave_out_functions(checkpoint)

    def before_train(self, runner: Runner) -> None:
        """Finds the folder, and makes the runner save in one step.

        Args:
            runner (Runner): The runner of the training process.
        """
        super().before_train(runner)
        if not self._is_local():
            return
        if not getattr(runner.save_checkpoint, 'whole', False):
            runner.save_checkpoint = _saves_as_a_whole(runner.save_checkpoint)
        if is_main_process():
            remove_leftovers(self.out_dir)

    def _is_local(self) -> bool:
        return isinstance(self.file_backend, LocalBackend)

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: dict[str, Any]
    ) -> None:
        if not self._is_local():
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        # As the method that this replaces, but for the order: what is outdated
        # goes when the new one and its name are on disk.
        outdated = self._note_step(runner, step)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if not is_main_process():
            return
        replace_text(
            Path(runner.work_dir, 'last_checkpoint'), str(self.last_ckpt)
        )
        if outdated is not None:
            Path(self.out_dir, outdated).unlink(missing_ok=True)

    def _note_step(self, runner: Runner, step: int) -> str | None:
        """Returns the checkpoint to remove after this one was written."""
        # All are kept, or this step is noted: the last and the best checkpoint
        # of an epoch may both come here.
        if self.max_keep_ckpts <= 0 or step in list(self.keep_ckpt_ids)[-1:]:
            return None
        full = len(self.keep_ckpt_ids) == self.max_keep_ckpts
        oldest = self.keep_ckpt_ids.popleft() if full else None
        self.keep_ckpt_ids.append(step)
        runner.message_hub.update_info(
            'keep_ckpt_ids', list(self.keep_ckpt_ids)
        )
        return None if oldest is None else self.filename_tmpl.format(oldest)


def save_safely(runner: Runner) -> None:
    """Puts safe hooks in the place of MMEngine's own checkpoint hooks.

    Subclasses that users wrote are left as they are.

    Args:
        runner (Runner): The runner of the training process, before
            ``before_train`` of its hooks.
    """
    for hook in runner.hooks:
        # Not a subclass, which may save in its own way.
        if type(hook) is CheckpointHook:
            safe = SafeCheckpointHook.instead_of(hook)
            replace_hook(runner, hook, safe)
