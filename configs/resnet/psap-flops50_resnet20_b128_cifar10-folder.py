_base_ = '../_base_/pruned/flops50_resnet20_b128_cifar10-folder.py'

model = dict(method='psap', protect=0.5)
