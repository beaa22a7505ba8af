# every tenth image of data/cifar10/train, in the six variants of CURL
_base_ = './cifar10-folder_bs128.py'

train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmlapp.ExpandedDataset',
        dataset=dict(
            type='CustomDataset',
            data_root='data/cifar10/',
            data_prefix='train',
            # 500 of each class, whose images follow each other
            indices=list(range(0, 50000, 10)),
            pipeline=[dict(type='LoadImageFromFile')],
        ),
        variants=[
            [],
            [dict(type='mmlapp.PatchShuffle', grid=2)],
            [dict(type='mmlapp.PatchShuffle', grid=3)],
            [dict(type='mmlapp.PatchShuffle', grid=4)],
            [
                dict(
                    type='Cutout',
                    # 0.2 to 0.5 of 32 pixels
                    magnitude_range=(6.4, 16),
                    magnitude_std='inf',
                    pad_val=0,
                    prob=1.0,
                )
            ],
            [
                dict(
                    type='Rotate',
                    magnitude_range=(0, 360),
                    magnitude_std='inf',
                    random_negative_prob=0.0,
                    pad_val=0,
                    prob=1.0,
                )
            ],
        ],
        pipeline=train_pipeline,
    )
)
