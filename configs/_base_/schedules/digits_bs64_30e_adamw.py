_base_ = 'digits_bs64_30e.py'

# optimizer
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.002, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={
            '.cls_token': dict(decay_mult=0.0),
            '.pos_embed': dict(decay_mult=0.0),
        },
    ),
    clip_grad=dict(max_norm=5.0),
)

# learning policy
param_scheduler = _base_.param_scheduler
param_scheduler[0].start_factor = 0.05
