_base_ = './resnet20_b128_cifar10-folder.py'

custom_imports = dict(imports=['mmlapp'])

model = dict(
    type='mmlapp.PrunableModel',
    architecture=_base_.model.type,
    keep_streams=True,  # better on ResNet-20: docs/method.md
    input_shape=(3, 32, 32),
)
optim_wrapper = dict(type='mmlapp.PruningOptimWrapper')
custom_hooks = [
    *_base_.get('custom_hooks', []),
    # learns from the dense network, which is trained before
    dict(
        type='mmlapp.Distiller',
        teacher=dict(
            checkpoint='work_dirs/resnet20_b128_cifar10-folder/epoch_200.pth'
        ),
        losses=dict(head=dict(type='logits', alpha=0.9, temperature=4)),
    ),
    dict(type='mmlapp.PruningHook', target=dict(flops=0.403), prune_epochs=10),
]
