"""Exported programs in ONNX, and run there; needs onnxscript and onnxruntime."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def converted(program: torch.export.ExportedProgram) -> Any:
    """The ONNX program."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecations inside torch and onnxscript
        logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
        return torch.onnx.export(program, dynamo=True, verbose=False)


def run(program: Any, x: Tensor, path: Path) -> Tensor:
    """What ONNX Runtime makes of the stored model."""
    import onnxruntime

    program.save(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return torch.from_numpy(session.run(None, {given.name: x.numpy()})[0])


def kinds(program: Any) -> Counter[str]:
    return Counter(node.op_type for node in program.model_proto.graph.node)
