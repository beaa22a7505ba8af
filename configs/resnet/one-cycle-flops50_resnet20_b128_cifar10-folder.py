_base_ = './resnet20_b128_cifar10-folder.py'

custom_imports = dict(imports=['mmlapp'])

model = dict(
    type='mmlapp.PrunableModel',
    architecture=_base_.model.type,
    input_shape=(3, 32, 32),
    method='one_cycle',
    score='group_norm',
    normalisation='none',
    min_keep=0.25,
)
optim_wrapper = dict(type='mmlapp.PruningOptimWrapper')
custom_hooks = [
    *_base_.get('custom_hooks', []),
    # ends as soon as the rankings of two epochs agree
    dict(
        type='mmlapp.PruningHook',
        target=dict(flops=0.5),
        prune_epochs=60,
        end='stable',
    ),
]
