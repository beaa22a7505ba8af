# model settings
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmlapp.CIFARVGG', depth=16),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=512,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
