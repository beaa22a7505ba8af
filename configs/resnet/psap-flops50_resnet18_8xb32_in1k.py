_base_ = '../_base_/pruned/flops50_resnet18_8xb32_in1k.py'

model = dict(method='psap', protect=0.5)
