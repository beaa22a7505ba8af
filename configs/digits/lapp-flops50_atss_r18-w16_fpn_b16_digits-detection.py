_base_ = './atss_r18-w16_fpn_b16_digits-detection.py'

custom_imports = dict(imports=['mmlapp'])

model = dict(
    type='mmlapp.PrunableModel',
    architecture=_base_.model.type,
    divisor=8,  # faster kernels
    input_shape=(3, 112, 112),
)
optim_wrapper = dict(type='mmlapp.PruningOptimWrapper')
custom_hooks = [
    *_base_.get('custom_hooks', []),
    dict(
        type='mmlapp.PruningHook',
        target=dict(flops=0.5),
        prune_epochs=3,
        interval=5,
    ),
]
