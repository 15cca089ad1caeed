"""Lets the CUDA build of torchvision be imported beside PyTorch's CPU wheel: its operators are declared here, since the
library that would declare them does not load. Text models call none of them."""

import torch

_OPERATORS = """_deform_conv2d_backward _ps_roi_align_backward _ps_roi_pool_backward _roi_align_backward _roi_pool_backward
deform_conv2d nms ps_roi_align ps_roi_pool qnms qroi_align roi_align roi_pool"""

_library = torch.library.Library("torchvision", "DEF")
for _name in _OPERATORS.split():
    _library.define(f"{_name}(Tensor x) -> Tensor")
