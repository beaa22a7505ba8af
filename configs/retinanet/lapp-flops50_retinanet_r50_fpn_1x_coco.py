_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['mmlapp'])

model = dict(
    type='mmlapp.PrunableModel',
    architecture=_base_.model.type,
    scope=['backbone', 'neck', 'bbox_head'],
    input_shape=(3, 800, 1280),
    divisor=16,  # faster kernels
    backbone=dict(frozen_stages=-1),  # what stays of a layer must adapt
)
optim_wrapper = dict(type='mmlapp.PruningOptimWrapper')
custom_hooks = [
    *_base_.get('custom_hooks', []),
    dict(type='mmlapp.PruningHook', target=dict(flops=0.5), prune_epochs=2),
]
