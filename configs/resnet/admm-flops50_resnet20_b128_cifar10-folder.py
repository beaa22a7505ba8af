_base_ = '../_base_/pruned/flops50_resnet20_b128_cifar10-folder.py'

model = dict(
    method=dict(type='admm', rounds=3),
    normalisation='mean',
    min_keep=0.25,
)
