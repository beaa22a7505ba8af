_base_ = '../_base_/pruned/flops50_resnet18_8xb32_in1k.py'

model = dict(
    method='one_cycle',
    score='group_norm',
    normalisation='none',
    min_keep=0.25,
)
custom_hooks = [
    *_base_.custom_hooks[:-1],
    # ends as soon as the rankings of two epochs agree
    dict(_base_.custom_hooks[-1], prune_epochs=30, end='stable'),
]
