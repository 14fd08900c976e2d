#!/usr/bin/env python3
"""Computes the goldens again with a second, independent forward pass (numpy, float64).

  check.py [FOLDER]                 every case under FOLDER, from both layouts, against its golden
  check.py [FOLDER] --mistakes      what each of 39 likely mistakes, and float32, changes in the logits, per case
  check.py [FOLDER] --transformers  also Hugging Face's GptOssForCausalLM, eager, float32, on hf/

Needs numpy and safetensors; the last one also torch and transformers.
"""
import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
from safetensors import deserialize

CODES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


# ------------------------------------------------------------------------------------------------------- reading
def read_tensors(folder):
    """name -> array; BF16 becomes float64, U8 stays"""
    out = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, entry in deserialize(file.read_bytes()):
            raw, shape = np.frombuffer(entry["data"], np.uint8), entry["shape"]
            if entry["dtype"] == "BF16":
                out[name] = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64).reshape(shape)
            elif entry["dtype"] == "F32":
                out[name] = raw.view("<f4").reshape(shape)
            else:
                assert entry["dtype"] == "U8", (file, name, entry["dtype"])
                out[name] = raw.reshape(shape)
    return out


def decode_mxfp4(blocks, scales, high_first=False):
    """[..., groups, 16] and [..., groups] -> [..., groups * 32]"""
    low, high = CODES[blocks & 15], CODES[blocks >> 4]
    pair = np.stack((high, low) if high_first else (low, high), -1)
    values = np.ldexp(pair.reshape(*blocks.shape[:-1], 32), scales[..., None].astype(np.int32) - 127)
    return values.reshape(*blocks.shape[:-2], -1)


def read_original(folder):
    """config in OpenAI's names, and per layer the arrays that the forward pass needs"""
    config, t = json.loads((folder / "config.json").read_text()), read_tensors(folder)
    layers = []
    for n in range(config["num_hidden_layers"]):
        b = f"block.{n}."
        layers.append(dict(
            attn_norm=t[b + "attn.norm.scale"], qkv=t[b + "attn.qkv.weight"], qkv_bias=t[b + "attn.qkv.bias"],
            sinks=t[b + "attn.sinks"], out=t[b + "attn.out.weight"], out_bias=t[b + "attn.out.bias"],
            mlp_norm=t[b + "mlp.norm.scale"], router=t[b + "mlp.gate.weight"], router_bias=t[b + "mlp.gate.bias"],
            gate_up=(t[b + "mlp.mlp1_weight.blocks"], t[b + "mlp.mlp1_weight.scales"]), gate_up_bias=t[b + "mlp.mlp1_bias"],
            down=(t[b + "mlp.mlp2_weight.blocks"], t[b + "mlp.mlp2_weight.scales"]), down_bias=t[b + "mlp.mlp2_bias"],
        ))
    assert len(t) == 3 + 15 * len(layers)
    return config, dict(embedding=t["embedding.weight"], norm=t["norm.scale"], unembedding=t["unembedding.weight"]), layers


def read_hf(folder):
    h, t = json.loads((folder / "config.json").read_text()), read_tensors(folder)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        where = json.loads(index.read_text())["weight_map"]
        assert where.keys() == t.keys()
        for name, file in where.items():
            assert name in [n for n, _ in deserialize((folder / file).read_bytes())]
    rope = h.get("rope_scaling") or h["rope_parameters"]
    assert rope["rope_type"] == "yarn" and rope["truncate"] is False
    assert h["layer_types"] == [["sliding_attention", "full_attention"][n % 2] for n in range(h["num_hidden_layers"])]
    config = {k: h[k] for k in ("num_hidden_layers", "vocab_size", "hidden_size", "intermediate_size", "swiglu_limit",
                                "head_dim", "num_attention_heads", "num_key_value_heads", "sliding_window")} | dict(
        num_experts=h["num_local_experts"], experts_per_token=h["num_experts_per_tok"],
        initial_context_length=rope["original_max_position_embeddings"],
        rope_theta=h.get("rope_theta") or rope["rope_theta"], rope_scaling_factor=rope["factor"],
        rope_ntk_alpha=rope["beta_slow"], rope_ntk_beta=rope["beta_fast"],
    )
    layers = []
    for n in range(config["num_hidden_layers"]):
        a, m = f"model.layers.{n}.self_attn.", f"model.layers.{n}.mlp."
        layers.append(dict(
            attn_norm=t[f"model.layers.{n}.input_layernorm.weight"],
            qkv=np.concatenate([t[f"{a}{x}_proj.weight"] for x in "qkv"]),
            qkv_bias=np.concatenate([t[f"{a}{x}_proj.bias"] for x in "qkv"]),
            sinks=t[a + "sinks"], out=t[a + "o_proj.weight"], out_bias=t[a + "o_proj.bias"],
            mlp_norm=t[f"model.layers.{n}.post_attention_layernorm.weight"],
            router=t[m + "router.weight"], router_bias=t[m + "router.bias"],
            gate_up=(t[m + "experts.gate_up_proj_blocks"], t[m + "experts.gate_up_proj_scales"]),
            gate_up_bias=t[m + "experts.gate_up_proj_bias"],
            down=(t[m + "experts.down_proj_blocks"], t[m + "experts.down_proj_scales"]),
            down_bias=t[m + "experts.down_proj_bias"],
        ))
    assert len(t) == 3 + 19 * len(layers)
    return config, dict(embedding=t["model.embed_tokens.weight"], norm=t["model.norm.weight"],
                        unembedding=t["lm_head.weight"]), layers


# --------------------------------------------------------------------------------------------------- forward pass
def rope_tables(config, positions, wrong=frozenset()):
    """cos and sin, [T, head_dim / 2]"""
    c, half = config, config["head_dim"] // 2
    theta, factor, context = c["rope_theta"], c["rope_scaling_factor"], c["initial_context_length"]
    i = np.arange(half)
    freq = float(theta) ** (2 * i / c["head_dim"])
    inv_freq, concentration = 1 / freq, 1.0
    if factor > 1 and "no YaRN" not in wrong:
        low = half * math.log(context / (c["rope_ntk_beta"] * 2 * math.pi)) / math.log(theta)
        high = half * math.log(context / (c["rope_ntk_alpha"] * 2 * math.pi)) / math.log(theta)
        if "YaRN bounds rounded" in wrong:
            low, high = math.floor(low), math.ceil(high)
        ramp = np.clip((i - low) / (high - low), 0, 1)
        if "YaRN ramp reversed" in wrong:
            ramp = 1 - ramp
        if "all frequencies interpolated" in wrong:
            ramp = np.ones(half)
        inv_freq = ramp / (factor * freq) + (1 - ramp) / freq
        concentration = 0.1 * math.log(factor) + 1
        if "no concentration" in wrong:
            concentration = 1.0
    if "float32 inv_freq" in wrong or "float32 angles" in wrong:
        inv_freq = inv_freq.astype(np.float32).astype(np.float64)
    angle = positions[:, None] * inv_freq
    if "float32 angles" in wrong:
        angle = angle.astype(np.float32).astype(np.float64)
    return np.cos(angle) * concentration, np.sin(angle) * concentration


def forward(model, tokens, wrong=frozenset()):
    """logits [T, vocab] and what was seen on the way; `wrong` names mistakes to make"""
    c, ends, layers = model
    heads, kv_heads, size = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    group, limit, k = heads // kv_heads, c["swiglu_limit"], c["experts_per_token"]
    tokens = np.asarray(tokens)
    T = len(tokens)
    stored = (lambda a: a.astype(np.float32).astype(np.float64)) if "float32 storage" in wrong else (lambda a: a)
    seen = dict(after_attention=[], after_layer=[], router=[])

    def rms_norm(x, weight):
        eps = 1e-6 if "eps 1e-6" in wrong else 1e-5
        square = np.mean(x * x, -1, keepdims=True)
        root = np.sqrt(square) + eps if "eps outside the root" in wrong else np.sqrt(square + eps)
        return stored(x / root * (1 + weight if "norm weight + 1" in wrong else weight))

    cos, sin = (stored(a)[:, None] for a in rope_tables(c, np.arange(T), wrong))

    def rotate(x):  # [T, heads, size]
        if "rotary pairs interleaved" in wrong:
            a, b, out = x[..., 0::2], x[..., 1::2], np.empty_like(x)
            out[..., 0::2], out[..., 1::2] = a * cos - b * sin, b * cos + a * sin
            return out
        a, b = x[..., :size // 2], x[..., size // 2:]
        if "rotary turns the other way" in wrong:
            return np.concatenate((a * cos + b * sin, b * cos - a * sin), -1)
        return stored(np.concatenate((a * cos - b * sin, b * cos + a * sin), -1))

    def attention(x, n, w):
        t = rms_norm(x, w["attn_norm"])
        qkv = stored(t @ w["qkv"].T + (0 if "no qkv bias" in wrong else w["qkv_bias"]))
        q, key, v = np.split(qkv.reshape(T, -1, size), [heads, heads + kv_heads], axis=1)
        q, key = rotate(q), rotate(key)
        sliding = n % 2 == (1 if "window on odd layers" in wrong else 0) and "no window" not in wrong
        window = c["sliding_window"] + ("window + 1" in wrong) - ("window - 1" in wrong)
        distance = np.arange(T)[:, None] - np.arange(T)
        hidden = (distance < 0) | ((distance >= window) if sliding else False)
        out = np.empty((T, heads, size))
        for h in range(heads):
            of = h % kv_heads if "query heads dealt in turn" in wrong else h // group
            score = q[:, h] @ key[:, of].T * (1 if "no 1/sqrt(head_dim)" in wrong else 1 / math.sqrt(size))
            score = np.where(hidden, -np.inf, stored(score))
            sink = np.full((T, 1), -np.inf if "no sinks" in wrong else w["sinks"][h])
            if "sink scaled too" in wrong:
                sink = sink / math.sqrt(size)
            score = np.concatenate((score, sink), 1)
            weight = np.exp(score - score.max(1, keepdims=True))
            weight = stored(weight / weight.sum(1, keepdims=True))
            out[:, h] = stored(weight[:, :-1] @ v[:, of])
        return stored(out.reshape(T, -1) @ w["out"].T + (0 if "no out bias" in wrong else w["out_bias"]))

    def experts(x, w):
        t = rms_norm(x, w["mlp_norm"])
        router = stored((x if "router reads before the norm" in wrong else t) @ w["router"].T
                        + (0 if "no router bias" in wrong else w["router_bias"]))
        seen["router"].append(router)
        chosen = np.argsort(-router, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(router, chosen, 1)
        weight = np.exp(best - best.max(1, keepdims=True))
        weight = weight / (np.exp(router - best.max(1, keepdims=True)) if "softmax over all experts" in wrong
                           else weight).sum(1, keepdims=True)
        if "one expert too few" in wrong:
            weight[:, -1] = 0
        out = np.zeros_like(x)
        for e in np.unique(chosen):
            at, slot = np.nonzero(chosen == e)
            swapped = "nibbles swapped" in wrong
            gate_up = decode_mxfp4(w["gate_up"][0][e], w["gate_up"][1][e], swapped)
            down = decode_mxfp4(w["down"][0][e], w["down"][1][e], swapped)
            h = stored(t[at] @ gate_up.T + (0 if "no gate-up bias" in wrong else w["gate_up_bias"][e]))
            gate, linear = h[:, 0::2], h[:, 1::2]
            if "gate and linear in halves" in wrong:
                gate, linear = np.split(h, 2, axis=1)
            if "gate and linear swapped" in wrong:
                gate, linear = linear, gate
            if "no clamp" not in wrong:
                if "gate not clamped" not in wrong:
                    gate = np.minimum(gate, limit)
                if "gate clamped below too" in wrong:
                    gate = np.maximum(gate, -limit)
                if "linear not clamped below" in wrong:
                    linear = np.minimum(linear, limit)
                elif "linear not clamped" not in wrong:
                    linear = np.clip(linear, -limit, limit)
            alpha = 1.0 if "sigmoid(gate)" in wrong else 1.702
            act = stored(gate / (1 + np.exp(-alpha * gate)) * (linear + ("linear + 0" not in wrong)))
            y = act @ down.T
            bias = 0 if "no down bias" in wrong else w["down_bias"][e]
            scale = weight[at, slot, None]
            out[at] += y * scale + bias if "down bias not weighted" in wrong else (y + bias) * scale
        return stored(out)

    x = ends["embedding"][tokens]
    seen["embedded"] = x
    for n, w in enumerate(layers):
        x = stored(x + attention(x, n, w))
        seen["after_attention"].append(x)
        x = stored(x + experts(x, w))
        seen["after_layer"].append(x)
    seen["final_norm"] = x if "no final norm" in wrong else rms_norm(x, ends["norm"])
    head = ends["embedding"] if "unembedding tied" in wrong else ends["unembedding"]
    return seen["final_norm"] @ head.T, seen


MISTAKES = [
    "window - 1", "window + 1", "window on odd layers", "no window", "no sinks", "sink scaled too",
    "query heads dealt in turn", "no 1/sqrt(head_dim)",
    "rotary pairs interleaved", "rotary turns the other way", "no YaRN", "no concentration", "YaRN bounds rounded",
    "YaRN ramp reversed", "all frequencies interpolated",
    "no qkv bias", "no out bias", "no router bias", "no gate-up bias", "no down bias", "down bias not weighted",
    "softmax over all experts", "one expert too few", "router reads before the norm",
    "gate and linear in halves", "gate and linear swapped", "no clamp", "gate not clamped", "gate clamped below too",
    "linear not clamped", "linear not clamped below", "sigmoid(gate)", "linear + 0",
    "nibbles swapped", "eps 1e-6", "eps outside the root", "norm weight + 1", "no final norm", "unembedding tied",
]
# not mistakes: float64 everywhere but here (storage: what one operation hands to the next)
ROUNDINGS = ["float32 storage", "float32 inv_freq", "float32 angles"]


# -------------------------------------------------------------------------------------------------------- checks
class Case:
    def __init__(self, folder):
        self.name, self.folder = folder.name, folder
        self.golden = json.loads((folder / "golden.json").read_text())
        self.tensors = {k: v.astype(np.float64) for k, v in read_tensors_of(folder / "golden.safetensors").items()}
        self.prompt, self.continuation = self.golden["prompt"], self.golden["continuation"]
        self.tokens, self.last = self.prompt + self.continuation[:-1], len(self.prompt) - 1

    def logits_off(self, logits):
        right = np.concatenate((self.tensors["logits"], self.tensors["continuation_logits"]))
        return np.abs(right - np.concatenate((logits[self.golden["positions"]], logits[self.last:]))).max()


def read_tensors_of(file):
    return {name: np.frombuffer(e["data"], "<f4").reshape(e["shape"]) for name, e in deserialize(file.read_bytes())
            if e["dtype"] == "F32"}


def check(case):
    """max abs differences: logits from original/, logits from hf/, states on the way"""
    g, t, last = case.golden, case.tensors, case.last
    c = json.loads((case.folder / "original/config.json").read_text())
    L, H, V, E = c["num_hidden_layers"], c["hidden_size"], c["vocab_size"], c["num_experts"]
    P, N = len(g["positions"]), len(g["continuation"])
    assert {k: v.shape for k, v in t.items()} == dict(
        logits=(P, V), logits_bf16=(P, V), continuation_logits=(N, V), embedded=(H,), final_norm=(H,),
        after_attention=(L, H), after_layer=(L, H), router_logits=(L, E))
    off = []
    for read in (read_original, read_hf):
        model = read(case.folder / read.__name__.removeprefix("read_"))
        assert model[0] == c
        logits, seen = forward(model, case.tokens)
        off.append(case.logits_off(logits))
    states = dict(embedded=seen["embedded"], final_norm=seen["final_norm"], after_attention=seen["after_attention"],
                  after_layer=seen["after_layer"], router_logits=seen["router"])
    off.append(max(np.abs(t[name] - np.asarray(a)[..., last, :]).max() for name, a in states.items()))
    assert (logits[last:].argmax(-1) == g["continuation"]).all()
    router = np.stack(seen["router"])
    k = c["experts_per_token"]
    order = np.argsort(-router[:, last], axis=-1)[:, :k]
    assert (order == g["experts"]).all()
    best = np.take_along_axis(router[:, last], order, -1)
    weight = np.exp(best - best.max(-1, keepdims=True))
    assert np.allclose(weight / weight.sum(-1, keepdims=True), g["expert_weights"], atol=1e-7)
    ordered = -np.sort(-router, -1)
    gap = (ordered[..., k - 1] - ordered[..., k]).min()
    assert gap >= 1e-3 and min(g["continuation_gaps"]) >= 1e-3
    assert np.isclose(gap, min(g["smallest_router_gap"].values()), atol=1e-6)
    return off


def with_transformers(case):
    import torch
    from transformers import GptOssForCausalLM, Mxfp4Config
    model = GptOssForCausalLM.from_pretrained(
        case.folder / "hf", quantization_config=Mxfp4Config(dequantize=True), dtype=torch.float32,
        attn_implementation="eager").eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with torch.no_grad():
        out = model(torch.tensor([case.tokens]), use_cache=False)
    return case.logits_off(out.logits[0].double().numpy())


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent)
    arguments.add_argument("--only")
    arguments.add_argument("--mistakes", action="store_true")
    arguments.add_argument("--transformers", action="store_true")
    a = arguments.parse_args()
    cases = [Case(f.parent) for f in sorted(a.folder.glob("*/golden.json"))]
    cases = [c for c in cases if not a.only or c.name in a.only.split(",")]
    worst = 0
    for case in cases:
        original, hf, states = check(case)
        worst = max(worst, original, hf, states)
        line = f"{case.name:16} max abs off: logits from original/ {original:.1e}, from hf/ {hf:.1e}; states {states:.1e}"
        if a.transformers:
            line += f"; transformers {with_transformers(case):.1e}"
        print(line, flush=True)
    if a.mistakes:
        print("\nmax abs change of the logits\n" + " " * 30 + "".join(f"{c.name[:10]:>11}" for c in cases))
        models = [read_original(c.folder / "original") for c in cases]
        for mistake in MISTAKES + ROUNDINGS:
            with np.errstate(all="ignore"):
                off = [c.logits_off(forward(m, c.tokens, {mistake})[0]) for c, m in zip(cases, models)]
            print(f"{mistake:30}" + "".join(f"{o:11.1e}" for o in off), flush=True)
    sys.exit(1 if worst > 1e-5 else 0)


if __name__ == "__main__":
    main()
