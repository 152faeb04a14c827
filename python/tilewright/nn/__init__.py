"""Layers with tilewright's kernels behind them, drop-in for torch's: same parameters, same state_dict.

>>> layer = tilewright.nn.Linear(768, 3072, activation="gelu")             # gelu(torch.nn.Linear(...)(x)), fused
>>> layer = tilewright.nn.Conv2d(64, 128, 3, padding=1, activation="relu")  # relu(torch.nn.Conv2d(...)(x)), fused
>>> layer = tilewright.nn.Linear.from_torch(module, activation="relu")     # shares the parameters of `module`
>>> layer = tilewright.nn.SparseLinear.from_dense(module, "bitmap")        # of a pruned torch.nn.Linear
"""

from tilewright.nn.conv1d import Conv1D
from tilewright.nn.conv2d import Conv2d
from tilewright.nn.linear import Linear
from tilewright.nn.packed_layer import PackedLayer
from tilewright.nn.sparse_linear import SparseLinear

__all__ = ["Conv1D", "Conv2d", "Linear", "PackedLayer", "SparseLinear"]
