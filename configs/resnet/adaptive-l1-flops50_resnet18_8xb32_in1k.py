_base_ = '../_base_/pruned/flops50_resnet18_8xb32_in1k.py'

model = dict(
    method='adaptive_l1',
    unit='stripes',
    ignore='backbone.conv1',
    normalisation='none',
)
