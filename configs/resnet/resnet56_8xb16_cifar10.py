_base_ = './resnet20_8xb16_cifar10.py'

model = dict(backbone=dict(depth=56))
