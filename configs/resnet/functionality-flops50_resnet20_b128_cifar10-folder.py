_base_ = '../_base_/pruned/flops50_resnet20_b128_cifar10-folder.py'

# after functionality-oriented pruning: trained weights, ranked once, then
# trained again
load_from = 'work_dirs/resnet20_b128_cifar10-folder/epoch_200.pth'
model = dict(
    method=dict(type='ranking', steps=1),
    score='functionality',
)
custom_hooks = [
    *_base_.custom_hooks[:-1],
    dict(_base_.custom_hooks[-1], prune_iters=1),
]
