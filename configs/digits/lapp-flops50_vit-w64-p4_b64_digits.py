_base_ = './vit-w64-p4_b64_digits.py'
custom_imports = dict(imports=['mmlapp'])

model = dict(
    type='mmlapp.PrunableModel',
    architecture=_base_.model.type,
    divisor=8,  # faster kernels; heads of 16 go one by one
    input_shape=(3, 16, 16),
)
optim_wrapper = dict(type='mmlapp.PruningOptimWrapper')
custom_hooks = [
    *_base_.get('custom_hooks', []),
    dict(
        type='mmlapp.PruningHook',
        target=dict(flops=0.5),
        prune_epochs=10,
        interval=5,
    ),
]
