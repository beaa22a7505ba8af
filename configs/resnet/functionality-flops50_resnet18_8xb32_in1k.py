_base_ = '../_base_/pruned/flops50_resnet18_8xb32_in1k.py'

# after functionality-oriented pruning: trained weights, ranked once, then
# trained again
load_from = 'work_dirs/resnet18_8xb32_in1k/epoch_100.pth'
model = dict(
    method=dict(type='ranking', steps=1),
    score='functionality',
)
custom_hooks = [
    *_base_.custom_hooks[:-1],
    dict(_base_.custom_hooks[-1], prune_iters=1),
]
