_base_ = './resnet20_b128_cifar10-folder-tenth-expanded.py'

custom_imports = dict(imports=['mmlapp'])

model = dict(
    type='mmlapp.PrunableModel',
    architecture=_base_.model.type,
    keep_streams=True,  # better on ResNet-20: docs/method.md
    input_shape=(3, 32, 32),
)
# the second stage of CURL: trains on what mixup distillation has pruned
load_from = (
    'work_dirs/lapp-flops40-distilled_'
    'resnet20_b128_cifar10-folder-tenth-expanded/epoch_200.pth'
)
optim_wrapper = dict(
    type='mmlapp.PruningOptimWrapper', optimizer=dict(lr=0.0001)
)
param_scheduler = dict(
    _delete_=True, type='CosineAnnealingLR', T_max=16, by_epoch=True
)
train_cfg = dict(max_epochs=16)
custom_hooks = [
    *_base_.get('custom_hooks', []),
    dict(
        type='mmlapp.LabelRefiner',
        teacher=dict(
            checkpoint='work_dirs/resnet20_b128_cifar10-folder-tenth-expanded/epoch_200.pth'
        ),
    ),
    # of the first stage: there is no second phase
    dict(type='mmlapp.PruningHook', target=dict(flops=0.403), prune_epochs=10),
]
