_base_ = './resnet20_b128_cifar10-folder.py'

model = dict(backbone=dict(depth=56))
