_base_ = './resnet20_8xb16_cifar10.py'

model = dict(backbone=dict(depth=110))

# So deep a network does not start at 0.1: He et al. 2015, section 4.2.
param_scheduler = [
    dict(type='ConstantLR', factor=0.1, by_epoch=False, end=400),
    dict(type='MultiStepLR', by_epoch=True, milestones=[100, 150], gamma=0.1),
]
