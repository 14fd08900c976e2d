#!/usr/bin/env python3
"""Writes verdicts.json: what the reference reader (PyPI safetensors) says of files that each test one rule."""
import base64
import json
import struct
from pathlib import Path

import safetensors

U8 = '"dtype":"U8","shape":[4],"data_offsets":[0,4]'
DATA = b"\x01\x02\x03\x04"
MAX = 18446744073709551615
cases = []


def file(rule, raw, spaces=0, ours=None):
    cases.append((rule, raw, spaces, ours))


def header(rule, text, data=DATA, length=None, spaces=0, ours=None):
    """a file with this header; length: what the file says of the header's length"""
    text = text if isinstance(text, bytes) else text.encode()
    file(rule, struct.pack("<Q", len(text) + spaces if length is None else length) + text + data, spaces, ours)


def tensor(rule, fields, data=DATA, ours=None):
    header(rule, '{"a":{%s}}' % fields, data, ours=ours)


def sized(rule, dtype, shape, nbytes, data=None):
    tensor(rule, f'"dtype":"{dtype}","shape":{json.dumps(shape)},"data_offsets":[0,{nbytes}]', bytes(nbytes) if data is None else data)


def pair(rule, first, second, data):
    a, b = (f'"dtype":"U8","shape":[{max(e - s, 0)}],"data_offsets":[{s},{e}]' for s, e in (first, second))
    header(rule, '{"a":{%s},"b":{%s}}' % (a, b), data)


def nested(rule, depth):
    tensor(rule, '"x":%s%s,%s' % ("[" * depth, "]" * depth, U8))


# the length
file("an empty file is too short for the header's length", b"")
file("seven bytes are too short for the header's length", b"\x02\0\0\0\0\0\0")
file("eight bytes and no header", struct.pack("<Q", 0))
header("a header of no bytes before data is no JSON", "", DATA)
header("a header longer than the file", "{}", b"", length=3)
header("a header that ends with the file", "{}", b"")
header("a header of 100,000,000 bytes", "{}", b"", spaces=100_000_000 - 2)
header("a header of 100,000,001 bytes", "{}", b"", spaces=100_000_001 - 2)
header("a header said to have 2^63 bytes", "{}", b"", length=2**63)
header("a header said to have 2^64 - 1 bytes", "{}", b"", length=MAX)
header("a header said to have 2^64 - 8 bytes, so that adding 8 wraps", "{}", b"", length=2**64 - 8)
header("a length that is right in its low 32 bits only", "{}", b"", length=2**32 + 2)

# the text
header("a tensor", '{"a":{%s}}' % U8)
header("no tensor and no data", "{}", b"")
header("no tensor and data", "{}", b"\0")
header("white space around the object", ' \t\r\n{"a" :\n{ %s }\t}  \r\n' % U8)
header("other white space (form feed)", '\f{"a":{%s}}' % U8)
header("a no-break space", '\u00a0{"a":{%s}}' % U8)
header("a byte order mark", '\ufeff{"a":{%s}}' % U8)
header("zeros behind the object", '{"a":{%s}}\0\0' % U8)
header("text behind the object", '{"a":{%s}}x' % U8)
header("a second object", '{"a":{%s}}{}' % U8)
header("an object that does not end", '{"a":{%s}' % U8)
header("a comma before the end of an object", '{"a":{%s},}' % U8)
header("a comma before the end of an array", '{"a":{"dtype":"U8","shape":[4,],"data_offsets":[0,4]}}')
header("single quotes", "{'a':{%s}}" % U8)
header("a comment", '{/**/"a":{%s}}' % U8)
header("an array for the whole", "[]", b"")
header("null for the whole", "null", b"")
header("a string for the whole", '"a"', b"")
header("invalid UTF-8 in a name", b'{"a\xff":{' + U8.encode() + b"}}")
header("UTF-8 longer than needed (C0 80)", b'{"a\xc0\x80":{' + U8.encode() + b"}}")
header("a surrogate in UTF-8 (ED A0 80)", b'{"a\xed\xa0\x80":{' + U8.encode() + b"}}")
header("UTF-8 beyond Unicode (F4 90 80 80)", b'{"a\xf4\x90\x80\x80":{' + U8.encode() + b"}}")
header("UTF-8 cut off", b'{"a\xe2\x82":{' + U8.encode() + b"}}")
header("invalid UTF-8 in a field that nobody reads", b'{"a":{"x":"\xff",' + U8.encode() + b"}}")
header("a name outside ASCII", '{"größe 張量 😀":{%s}}' % U8)
header("an empty name", '{"":{%s}}' % U8)
header("a name with a zero character, escaped", '{"a\\u0000":{%s}}' % U8)
header("a control character in a name", '{"a\x01":{%s}}' % U8)
header("a line end in a name", '{"a\n":{%s}}' % U8)
header("a delete character in a name", '{"a\x7f":{%s}}' % U8)
header("every short escape", '{"\\"\\\\\\/\\b\\f\\n\\r\\t":{%s}}' % U8)
header("an unknown escape", '{"\\x41":{%s}}' % U8)
header("a \\u escape with three digits", '{"\\u041":{%s}}' % U8)
header("a \\u escape with a sign", '{"\\u+041":{%s}}' % U8)
header("escaped surrogates that pair", '{"\\ud83d\\ude00":{%s}}' % U8)
header("an escaped high surrogate alone", '{"\\ud83d":{%s}}' % U8)
header("an escaped low surrogate alone", '{"\\ude00":{%s}}' % U8)
header("two escaped high surrogates", '{"\\ud83d\\ud83d":{%s}}' % U8)
header("an escaped high surrogate before another escape", '{"\\ud83d\\n":{%s}}' % U8)
header("__proto__ is a name like any other", '{"__proto__":{%s}}' % U8)
header("constructor and toString are names like any other", '{"constructor":{%s},"toString":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}}' % U8)
header("a field name with escapes", '{"a":{"\\u0064type":"U8","shape":[4],"data_offsets":[0,4]}}')
header("a tensor name with escapes that spell __metadata__", '{"\\u005f_metadata__":{"x":"y"},"a":{%s}}' % U8)

# repeated keys
header("a tensor name twice", '{"a":{%s},"a":{%s}}' % (U8, U8), ours="refuse")
header("a tensor name twice, once with escapes", '{"a":{%s},"\\u0061":{%s}}' % (U8, U8), ours="refuse")
tensor("a field twice", '"dtype":"U8",' + U8)
tensor("a field that nobody reads twice", '"x":1,"x":2,' + U8, ours="refuse")
header("__metadata__ twice", '{"__metadata__":{},"__metadata__":{},"a":{%s}}' % U8)
header("__metadata__ twice, once null", '{"__metadata__":null,"__metadata__":{},"a":{%s}}' % U8)
header("a key of __metadata__ twice", '{"__metadata__":{"x":"1","x":"2"},"a":{%s}}' % U8, ours="refuse")

# __metadata__
header("__metadata__ of strings", '{"__metadata__":{"format":"pt","__proto__":"x"},"a":{%s}}' % U8)
header("__metadata__ last", '{"a":{%s},"__metadata__":{}}' % U8)
header("__metadata__ null", '{"__metadata__":null,"a":{%s}}' % U8)
header("__metadata__ with a number", '{"__metadata__":{"x":1},"a":{%s}}' % U8)
header("__metadata__ with null inside", '{"__metadata__":{"x":null},"a":{%s}}' % U8)
header("__metadata__ with an object inside", '{"__metadata__":{"x":{}},"a":{%s}}' % U8)
header("__metadata__ as an array", '{"__metadata__":[],"a":{%s}}' % U8)
header("__metadata__ as a string", '{"__metadata__":"x","a":{%s}}' % U8)
header("__metadata__ like a tensor", '{"__metadata__":{%s}}' % U8)

# fields
tensor("no dtype", '"shape":[4],"data_offsets":[0,4]')
tensor("no shape", '"dtype":"U8","data_offsets":[0,4]')
tensor("no data_offsets", '"dtype":"U8","shape":[4]')
tensor("a field that nobody reads", '"x":{"y":[1.5e3,true,false,null,"\\u00e9"]},' + U8)
tensor("a field that nobody reads, infinite", '"x":1e400,' + U8)
tensor("a field that nobody reads, tiny", '"x":-1e-400,' + U8)
tensor("a field that nobody reads, zero with a huge exponent", '"x":0e99999999999,' + U8)
tensor("a field that nobody reads, NaN", '"x":NaN,' + U8)
tensor("a field that nobody reads, a number with a leading zero", '"x":01,' + U8)
tensor("a field that nobody reads, a number without digits before the point", '"x":.5,' + U8)
tensor("a field that nobody reads, a number without digits behind the point", '"x":1.,' + U8)
tensor("a field that nobody reads, a number with a plus", '"x":+1,' + U8)
tensor("a field that nobody reads, half a word", '"x":tru,' + U8)
tensor("a field that nobody reads, half a surrogate pair", '"x":"\\ud800",' + U8)
nested("125 arrays inside two objects", 125)
nested("126 arrays inside two objects", 126)
nested("10,000 arrays", 10_000)
header("null for a tensor", '{"a":null}', b"")
header("a string for a tensor", '{"a":"U8"}', b"")
header("a tensor as [dtype, shape, data_offsets]", '{"a":["U8",[4],[0,4]]}')
header("a tensor as an array of two", '{"a":["U8",[4]]}')
header("a tensor as an array of four", '{"a":["U8",[4],[0,4],0]}')
tensor('a dtype as {"U8": null}', '"dtype":{"U8":null},"shape":[4],"data_offsets":[0,4]')
tensor('a dtype as {"U8": []}', '"dtype":{"U8":[]},"shape":[4],"data_offsets":[0,4]')
tensor("a dtype as an object of two", '"dtype":{"U8":null,"I8":null},"shape":[4],"data_offsets":[0,4]')
tensor("a dtype as an empty object", '"dtype":{},"shape":[4],"data_offsets":[0,4]')
tensor("a dtype as a number", '"dtype":4,"shape":[4],"data_offsets":[0,4]')
sized("a dtype in small letters", "u8", [4], 4)
sized("an unknown dtype", "Q4", [4], 4)

# integers
tensor("a dimension with a fraction", '"dtype":"U8","shape":[4.0],"data_offsets":[0,4]')
tensor("a dimension with an exponent", '"dtype":"U8","shape":[4e0],"data_offsets":[0,4]')
tensor("a dimension of minus zero", '"dtype":"U8","shape":[-0],"data_offsets":[0,0]', b"")
tensor("a negative dimension", '"dtype":"U8","shape":[-4],"data_offsets":[0,4]')
tensor("two negative dimensions", '"dtype":"U8","shape":[-2,-2],"data_offsets":[0,4]')
tensor("a dimension with a leading zero", '"dtype":"U8","shape":[04],"data_offsets":[0,4]')
tensor("a dimension as a string", '"dtype":"U8","shape":["4"],"data_offsets":[0,4]')
tensor("a dimension of null", '"dtype":"U8","shape":[null],"data_offsets":[0,4]')
tensor("a shape as a number", '"dtype":"U8","shape":4,"data_offsets":[0,4]')
tensor("a shape as null", '"dtype":"U8","shape":null,"data_offsets":[0,4]')
tensor("an offset with a fraction", '"dtype":"U8","shape":[4],"data_offsets":[0,4.0]')
tensor("an offset of minus zero", '"dtype":"U8","shape":[4],"data_offsets":[-0,4]')
tensor("one offset", '"dtype":"U8","shape":[4],"data_offsets":[4]')
tensor("three offsets", '"dtype":"U8","shape":[4],"data_offsets":[0,4,4]')
tensor("no offsets", '"dtype":"U8","shape":[4],"data_offsets":[]')

# sizes
for dtype, bits in dict(BOOL=8, U8=8, I8=8, F8_E5M2=8, F8_E4M3=8, F8_E8M0=8, F8_E4M3FNUZ=8, F8_E5M2FNUZ=8, I16=16, U16=16,
                        F16=16, BF16=16, I32=32, U32=32, F32=32, C64=64, F64=64, I64=64, U64=64).items():
    sized(f"three numbers of {dtype}", dtype, [3], 3 * bits // 8)
sized("two numbers of F4 in a byte", "F4", [2], 1)
sized("three numbers of F4 are no whole bytes", "F4", [3], 2)
sized("three numbers of F4 in the one byte that they fill", "F4", [3], 1)
sized("four numbers of F6_E2M3 in three bytes", "F6_E2M3", [4], 3)
sized("four numbers of F6_E3M2 in three bytes", "F6_E3M2", [2, 2], 3)
sized("two numbers of F6_E3M2 are no whole bytes", "F6_E3M2", [2], 2)
sized("two numbers of F6_E2M3 in the one byte that they fill", "F6_E2M3", [2], 1)
sized("a scalar", "F32", [], 4)
sized("a scalar of no bytes", "F32", [], 0)
sized("a dimension of zero", "F32", [3, 0], 0)
sized("twenty dimensions", "U8", [1] * 18 + [2, 2], 4)
sized("a byte too few for the shape", "U8", [4], 3)
sized("a byte too many for the shape", "U8", [4], 5)
sized("a dimension of 2^64 - 1 behind a zero", "U8", [0, MAX], 0)
sized("a dimension of 2^64 behind a zero", "U8", [0, MAX + 1], 0)
sized("a product of 2^64 before a zero", "U8", [2**32, 2**32, 0], 0)
sized("a product of 2^64 behind a zero", "U8", [0, 2**32, 2**32], 0)
sized("a product of 2^64 - 1 before a zero (a float64 rounds it to 2^64)", "U8", [2**32 + 1, 2**32 - 1, 0], 0)
sized("2^61 numbers of 8 bits: the bits do not fit 64", "U8", [2**61], 0)
sized("2^61 - 1 numbers of 8 bits", "U8", [2**61 - 1], 0)
sized("2^62 numbers of F4: the bits do not fit 64", "F4", [2**62], 0)
sized("4 more numbers than 2^64, which wrap to 4", "U8", [2**32, 2**32 + 1], 4)
sized("2^53 + 1 numbers, which a float64 cannot count", "U8", [2**53 + 1], 4)
tensor("offsets of 2^53 and 2^53 + 4", '"dtype":"U8","shape":[4],"data_offsets":[9007199254740992,9007199254740996]')
tensor("offsets that wrap", '"dtype":"U8","shape":[4],"data_offsets":[18446744073709551612,0]')
tensor("offsets the wrong way round", '"dtype":"U8","shape":[4],"data_offsets":[4,0]')
tensor("an end of 2^64 - 1", f'"dtype":"U8","shape":[{MAX}],"data_offsets":[0,{MAX}]')

# places
pair("two tensors", (0, 4), (4, 6), b"\0\1\2\3\4\5")
pair("two tensors, the later first", (2, 6), (0, 2), b"\0\1\2\3\4\5")
pair("a hole before the first tensor", (1, 2), (2, 4), bytes(4))
pair("a hole between tensors", (0, 2), (3, 4), bytes(4))
pair("tensors that overlap", (0, 3), (2, 4), bytes(4))
pair("two tensors in one place", (0, 4), (0, 4), bytes(4))
pair("an empty tensor in front", (0, 0), (0, 4), bytes(4))
pair("an empty tensor behind", (0, 4), (4, 4), bytes(4))
pair("an empty tensor inside another", (0, 4), (2, 2), bytes(4))
pair("two empty tensors in one place", (0, 0), (0, 0), b"")
pair("data behind the last tensor", (0, 2), (2, 4), bytes(5))
pair("a file that ends too early", (0, 2), (2, 4), bytes(3))
header("a file that ends before its data", '{"a":{%s}}' % U8, b"")

# files that are something else
file("a GGUF file", b"GGUF\3\0\0\0" + bytes(64))
file("a zip archive", b"PK\x03\x04\x14\0\0\0" + bytes(64))
file("a web page", b"<!DOCTYPE html><html></html>" + bytes(16))
file("a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 13000000000\n")


def verdict(rule, raw, spaces, ours):
    body = 8 + int.from_bytes(raw[:8], "little") - spaces if spaces else len(raw)
    whole = raw[:body] + b" " * spaces + raw[body:]
    out = dict(rule=rule, file=base64.b64encode(raw).decode())
    if spaces:
        out["spaces"] = spaces
    try:
        tensors = safetensors.deserialize(whole)
        out["reference"] = "accept"
        out["tensors"] = sorted(
            (dict(name=name, dtype=t["dtype"], shape=t["shape"], data=bytes(t["data"]).hex()) for name, t in tensors),
            key=lambda t: t["name"])
    except safetensors.SafetensorError as error:
        out["reference"] = "refuse"
        out["error"] = str(error)[:200]
    if ours:
        out["ours"] = ours
    return out


verdicts = [verdict(*case) for case in cases]
assert len({v["rule"] for v in verdicts}) == len(verdicts)
lines = ",\n".join("    " + json.dumps(v, ensure_ascii=False) for v in verdicts)
text = f'{{\n  "reference": "safetensors {safetensors.__version__} (PyPI)",\n  "verdicts": [\n{lines}\n  ]\n}}\n'
Path(__file__).resolve().with_name("verdicts.json").write_text(text)
print(len(verdicts), "files,", sum(v["reference"] == "accept" for v in verdicts), "accepted")
