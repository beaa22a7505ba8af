_base_ = [
    '../_base_/models/atss_r18-w16_fpn.py',
    '../_base_/datasets/digits_detection_bs16.py',
    '../_base_/schedules/digits_detection_bs16_10e.py',
    'mmdet::_base_/default_runtime.py',
]

default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(interval=5, max_keep_ckpts=1),
)
