#!/usr/bin/env python3
"""What transformers' save of a dequantised gpt-oss holds, of the small checkpoints beside (../logits/*/hf).

  make.py > unquantized.json

For each tensor that differs from the published one, the shape and the SHA-256 of its bytes in bfloat16, by transformers'
own rules (integrations/mxfp4.py of 5.24.0): a table look-up, ldexp by scale - 127, and the transpose of the last two
dimensions, made contiguous. Needs numpy and safetensors.
"""
import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors import deserialize

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def read(folder):
    out = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, entry in deserialize(file.read_bytes()):
            if entry["dtype"] == "U8":
                out[name] = np.frombuffer(entry["data"], np.uint8).reshape(entry["shape"])
    return out


def dequantize(blocks, scales):
    """[experts, rows, groups, 16] and [experts, rows, groups] -> [experts, groups * 32, rows]"""
    values = np.empty((*blocks.shape[:-1], 32), np.float32)
    values[..., 0::2] = FP4[blocks & 15]
    values[..., 1::2] = FP4[blocks >> 4]
    values = np.ldexp(values, scales.astype(np.int32)[..., None] - 127)
    experts, rows = blocks.shape[:2]
    return np.ascontiguousarray(values.reshape(experts, rows, -1).transpose(0, 2, 1))


golden = {}
for folder in sorted((Path(__file__).parent.parent / "logits").glob("*/hf")):
    tensors = read(folder)
    golden[folder.parent.name] = made = {}
    for name in sorted(tensors):
        if not name.endswith("_blocks"):
            continue
        values = dequantize(tensors[name], tensors[name.removesuffix("_blocks") + "_scales"])
        bits = values.view(np.uint32)
        assert not (bits & 0xFFFF).any()  # each is a bfloat16
        digest = hashlib.sha256((bits >> 16).astype("<u2").tobytes()).hexdigest()
        made[name.removesuffix("_blocks")] = dict(shape=values.shape, sha256=digest)
print(json.dumps(golden, indent=1))
