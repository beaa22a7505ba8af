# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is known to say when something happens in a training.

By name of a class, which its subclasses inherit, the settings that hold epochs
or iterations, and what becomes of each. Points and lengths go with the
training; how often something happens stays.
"""

from __future__ import annotations

from collections.abc import Mapping

from .stretch import (
    Role,
    actions,
    by_name,
    end,
    first,
    firsts,
    keep,
    last,
    periods,
    point,
    rate,
    span,
    spans,
    step,
    step_rate,
)

Table = Mapping[str, Mapping[str, Role]]

LOOPS: Table = {
    'BaseLoop': {
        'max_epochs': point,
        'max_iters': point,
        'val_begin': first,
        'val_interval': keep,
        'dynamic_intervals': firsts,
    },
    'EpochBasedTrainLoop': {},
    'IterBasedTrainLoop': {},
}
SCHEDULERS: Table = {
    '_ParamScheduler': {'begin': point, 'end': end, 'last_step': keep},
    'ConstantParamScheduler': {},
    'CosineAnnealingParamScheduler': {'T_max': span},
    'CosineRestartParamScheduler': {'periods': periods},
    'ExponentialParamScheduler': {'gamma': rate},
    'LinearParamScheduler': {},
    # Counted from `begin`, as the steps of all schedulers.
    'MultiStepParamScheduler': {'milestones': spans},
    'OneCycleParamScheduler': {'total_steps': span},
    'PolyParamScheduler': {},
    'QuadraticWarmupParamScheduler': {},
    'ReduceOnPlateauParamScheduler': {'patience': keep, 'cooldown': keep},
    'StepParamScheduler': {'step_size': step, 'gamma': step_rate},
}
HOOKS: Table = {
    # mmengine
    'CheckpointHook': {'save_begin': point},
    'DistSamplerSeedHook': {},
    'EarlyStoppingHook': {'patience': keep},
    'EMAHook': {'begin_iter': point, 'begin_epoch': point},
    'EmptyCacheHook': {},
    'IterTimerHook': {},
    'LoggerHook': {},
    'NaiveVisualizationHook': {},
    'NPUProfilerHook': {},
    'ParamSchedulerHook': {},
    'PrepareTTAHook': {},
    'ProfilerHook': {},
    'RuntimeInfoHook': {},
    'SyncBuffersHook': {},
    # mmdet
    'CheckInvalidLossHook': {},
    'DetVisualizationHook': {},
    'GroundingVisualizationHook': {},
    'MeanTeacherHook': {},
    'MemoryProfilerHook': {},
    'NumClassCheckHook': {},
    'PipelineSwitchHook': {'switch_epoch': point},
    'SetEpochInfoHook': {},
    'SyncNormHook': {},
    'TrackVisualizationHook': {},
    'TrainAugmentDetVisualizationHook': {},
    'YOLOXModeSwitchHook': {'num_last_epochs': last},
    # mmpretrain
    'ClassNumCheckHook': {},
    'DenseCLHook': {'start_iters': point},
    'PreciseBNHook': {},
    'PrepareProtoBeforeValLoopHook': {},
    'SetAdaptiveMarginsHook': {},
    'SimSiamHook': {},
    'SwAVHook': {'epoch_queue_starts': point, 'frozen_layers_cfg': by_name},
    'SwitchRecipeHook': {'schedule': actions},
    'VisualizationHook': {},
    'WarmupParamHook': {'warmup_epochs': point},
    # mmlapp
    'Distiller': {},
    'LabelRefiner': {},
    'PlainModelHook': {},
    # Its phase is what the length of training follows from.
    'PruningHook': {},
    'RandomStateHook': {},
    'RankCheckHook': {},
    'SafeCheckpointHook': {},
}
