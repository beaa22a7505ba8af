_base_ = './resnet20_b128_cifar10-folder.py'

custom_imports = dict(imports=['mmlapp'])

model = dict(
    type='mmlapp.PrunableModel',
    architecture=_base_.model.type,
    input_shape=(3, 32, 32),
    method='soft',
    score='operation_aware',
)
optim_wrapper = dict(type='mmlapp.PruningOptimWrapper')
custom_hooks = [
    *_base_.get('custom_hooks', []),
    dict(type='mmlapp.PruningHook', target=dict(flops=0.5), prune_epochs=10),
]
