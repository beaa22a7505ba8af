_base_ = '../_base_/pruned/flops50_resnet20_b128_cifar10-folder.py'

model = dict(method='soft', score='operation_aware')
