_base_ = [
    '../_base_/models/resnet20_cifar.py',
    '../_base_/datasets/cifar10-folder-tenth-expanded_bs128.py',
    'mmpretrain::_base_/schedules/cifar10_bs128.py',
    'mmpretrain::_base_/default_runtime.py',
]

custom_imports = dict(imports=['mmlapp'])
