_base_ = [
    '../_base_/models/vgg16_cifar.py',
    '../_base_/datasets/cifar10-folder_bs128.py',
    'mmpretrain::_base_/schedules/cifar10_bs128.py',
    'mmpretrain::_base_/default_runtime.py',
]

optim_wrapper = dict(optimizer=dict(weight_decay=0.0005))
