_base_ = [
    '../_base_/models/vit-w64-p4.py',
    '../_base_/datasets/digits_bs64.py',
    '../_base_/schedules/digits_bs64_30e_adamw.py',
    'mmpretrain::_base_/default_runtime.py',
]

default_hooks = dict(
    logger=dict(interval=23),
    checkpoint=dict(interval=5, max_keep_ckpts=1),
)
