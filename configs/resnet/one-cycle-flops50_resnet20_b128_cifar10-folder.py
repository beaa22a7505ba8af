_base_ = '../_base_/pruned/flops50_resnet20_b128_cifar10-folder.py'

model = dict(
    method='one_cycle',
    score='group_norm',
    normalisation='none',
    min_keep=0.25,
)
custom_hooks = [
    *_base_.custom_hooks[:-1],
    # ends as soon as the rankings of two epochs agree
    dict(_base_.custom_hooks[-1], prune_epochs=60, end='stable'),
]
