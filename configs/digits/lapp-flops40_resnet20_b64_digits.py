_base_ = './resnet20_b64_digits.py'
custom_imports = dict(imports=['mmlapp'])

model = dict(
    type='mmlapp.PrunableModel',
    architecture=_base_.model.type,
    keep_streams=True,  # better on ResNet-20: docs/method.md
    divisor=8,  # faster kernels
    input_shape=(3, 16, 16),
)
optim_wrapper = dict(type='mmlapp.PruningOptimWrapper')
custom_hooks = [
    *_base_.get('custom_hooks', []),
    dict(
        type='mmlapp.PruningHook',
        target=dict(flops=0.403),
        prune_epochs=10,
        interval=5,
    ),
]
