_base_ = '../_base_/pruned/flops50_resnet20_b128_cifar10-folder.py'

model = dict(
    method=dict(type='ranking', cost='divide'),
    score='taylor',
    normalisation='none',
)
