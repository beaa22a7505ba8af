_base_ = './resnet20_b128_cifar10-folder-tenth-expanded.py'

custom_imports = dict(imports=['mmlapp'])

model = dict(
    type='mmlapp.PrunableModel',
    architecture=_base_.model.type,
    keep_streams=True,  # better on ResNet-20: docs/method.md
    input_shape=(3, 32, 32),
    train_cfg=dict(augments=dict(type='Mixup', alpha=1.0)),
)
optim_wrapper = dict(type='mmlapp.PruningOptimWrapper')
custom_hooks = [
    *_base_.get('custom_hooks', []),
    # mixup distillation of CURL, from the dense network trained before
    dict(
        type='mmlapp.Distiller',
        teacher=dict(
            checkpoint='work_dirs/resnet20_b128_cifar10-folder-tenth-expanded/epoch_200.pth'
        ),
        losses=dict(head=dict(type='logits', alpha=0.7, temperature=2)),
    ),
    dict(type='mmlapp.PruningHook', target=dict(flops=0.403), prune_epochs=10),
]
