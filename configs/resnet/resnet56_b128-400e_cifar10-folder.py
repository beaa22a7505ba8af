_base_ = './resnet56_b128_cifar10-folder.py'

param_scheduler = dict(milestones=[200, 300])
train_cfg = dict(max_epochs=400)
