_base_ = '../_base_/pruned/flops50_resnet18_8xb32_in1k.py'

# CURL: trained weights, ranked once with a floor, then trained again
load_from = 'work_dirs/resnet18_8xb32_in1k/epoch_100.pth'
model = dict(
    method=dict(type='ranking', steps=1),
    score='kl_divergence',  # a batch of 32 images on each device
    normalisation='none',
    min_keep=0.3,
)
custom_hooks = [
    *_base_.custom_hooks[:-1],
    dict(_base_.custom_hooks[-1], prune_iters=1),
]
