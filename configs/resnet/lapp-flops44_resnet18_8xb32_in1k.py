_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'

custom_imports = dict(imports=['mmlapp'])

model = dict(
    type='mmlapp.PrunableModel',
    architecture=_base_.model.type,
    keep_streams=True,  # better on ResNet-20: docs/method.md
    input_shape=(3, 224, 224),
    divisor=16,  # faster kernels
)
optim_wrapper = dict(type='mmlapp.PruningOptimWrapper')
custom_hooks = [
    *_base_.get('custom_hooks', []),
    dict(type='mmlapp.PruningHook', target=dict(flops=0.444), prune_epochs=5),
]
