# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where training ends, in iterations."""

from __future__ import annotations

from mmengine.runner import EpochBasedTrainLoop, Runner


def end_of_training(
    runner: Runner, done: int | None = None, epoch: int | None = None
) -> int:
    """Returns the number of iterations when training ends.

    A loop of epochs goes on with those that are left, of as many batches as
    there are now: of a checkpoint of other batches, such as one of another
    number of processes, that is not ``runner.max_iters``.

    Args:
        runner (Runner): The runner, in training.
        done (int, optional): Iterations of the checkpoint that it goes on
            from. Defaults to where it stands.
        epoch (int, optional): Epochs, likewise.
    """
    loop = runner.train_loop
    if not isinstance(loop, EpochBasedTrainLoop):
        return int(runner.max_iters)
    done = runner.iter if done is None else done
    epoch = runner.epoch if epoch is None else epoch
    left = max(loop.max_epochs - epoch, 0)
    return done + left * len(loop.dataloader)
