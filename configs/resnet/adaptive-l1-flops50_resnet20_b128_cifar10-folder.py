_base_ = '../_base_/pruned/flops50_resnet20_b128_cifar10-folder.py'

model = dict(
    method='adaptive_l1',
    unit='stripes',
    ignore='backbone.conv1',
    normalisation='none',
)
