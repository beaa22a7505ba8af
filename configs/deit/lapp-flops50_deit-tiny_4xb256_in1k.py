_base_ = 'mmpretrain::deit/deit-tiny_4xb256_in1k.py'

custom_imports = dict(imports=['mmlapp'])

model = dict(
    type='mmlapp.PrunableModel',
    architecture=_base_.model.type,
    input_shape=(3, 224, 224),
    divisor=8,  # faster kernels; heads of 64 go one by one
)
optim_wrapper = dict(type='mmlapp.PruningOptimWrapper')
custom_hooks = [
    *_base_.get('custom_hooks', []),
    dict(type='mmlapp.PruningHook', target=dict(flops=0.5), prune_epochs=30),
]
