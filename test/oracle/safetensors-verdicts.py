#!/usr/bin/env python3
"""The reference reader (PyPI safetensors) as a filter: a file in base64 a line -> its verdict as JSON a line."""
import base64
import json
import sys

import safetensors

for line in sys.stdin:
    try:
        tensors = safetensors.deserialize(base64.b64decode(line))
        verdict = sorted([name, t["dtype"], t["shape"], len(t["data"])] for name, t in tensors)
    except safetensors.SafetensorError as error:
        verdict = str(error)
    except BaseException as error:  # a panic of its Rust core
        verdict = "crashed: " + str(error)
    print(json.dumps(verdict), flush=True)
