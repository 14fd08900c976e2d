"""Reads one text a line as JSON (ASCII, lone surrogates as escapes), writes tiktoken's ids of it in o200k_harmony.

Needs tiktoken, and its ranks in the folder TIKTOKEN_CACHE_DIR (../golden/tokenizer/README.md says how)."""

import json
import sys

import tiktoken

encoding = tiktoken.get_encoding("o200k_harmony")
for line in sys.stdin:
    print(json.dumps(encoding.encode_ordinary(json.loads(line)), separators=(",", ":")))
