_base_ = '../_base_/pruned/flops50_resnet20_b128_cifar10-folder.py'

# CURL: trained weights, ranked once with a floor, then trained again
load_from = 'work_dirs/resnet20_b128_cifar10-folder/epoch_200.pth'
model = dict(
    method=dict(type='ranking', steps=1),
    score=dict(type='kl_divergence', batches=2),  # of 128 images
    normalisation='none',
    min_keep=0.3,
)
custom_hooks = [
    *_base_.custom_hooks[:-1],
    dict(_base_.custom_hooks[-1], prune_iters=1),
]
