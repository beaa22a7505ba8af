# dataset settings
dataset_type = 'mmlapp.Digits'
img_size = 16
data_preprocessor = dict(
    num_classes=10,
    mean=[80.0, 80.0, 80.0],
    std=[90.0, 90.0, 90.0],
    to_rgb=False,
)

train_pipeline = [
    dict(type='RandomCrop', crop_size=img_size, padding=2),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]

# The images lie in memory: workers would cost more than they give.
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    dataset=dict(
        type=dataset_type,
        split='train',
        img_size=img_size,
        pipeline=train_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=0,
    dataset=dict(
        type=dataset_type,
        split='test',
        img_size=img_size,
        pipeline=test_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1,))

test_dataloader = val_dataloader
test_evaluator = val_evaluator
