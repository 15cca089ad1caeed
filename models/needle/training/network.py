"""The network: a small Llama whose parameters carry Hugging Face's names, and its export to a Hugging Face folder."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F

from . import folders
from .pieces import MAGIC, NONE
from .tokenizer import save as save_tokenizer

HEAD_DIM = 64
# At 128K tokens 14 of the 32 rotary pairs turn by less than half a radian: room to match content.
THETA, MAX_POSITIONS, EPSILON = 1e10, 131072, 1e-5
# Tokens that a compiled block sees; attention alone sees whole sequences.
CHUNK = 65536
_SHARD_BYTES = 12 * 2**20

GENERATION_CONFIG = {"bos_token_id": 0, "eos_token_id": 1, "do_sample": False}


@dataclass(frozen=True)
class Shape:
    vocabulary: int
    hidden: int = 512
    layers: int = 6
    heads: int = 8
    kv_heads: int = 2
    mlp: int = 576

    def config(self) -> dict:
        """As transformers writes it."""
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": self.vocabulary,
            "hidden_size": self.hidden, "intermediate_size": self.mlp, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "head_dim": HEAD_DIM,
            "hidden_act": "silu", "max_position_embeddings": MAX_POSITIONS, "rms_norm_eps": EPSILON,
            "rope_theta": THETA, "rope_parameters": {"rope_type": "default", "rope_theta": THETA},
            "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False, "tie_word_embeddings": True,
            "initializer_range": 0.02, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None,
            "use_cache": True, "dtype": "bfloat16", "torch_dtype": "bfloat16",
        }  # fmt: skip


class Scale(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))


class Matrix(nn.Module):
    def __init__(self, size_in: int, size_out: int, deviation: float = 0.02):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size_out, size_in) * deviation)


class Layer(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        # Residual branches start smaller, as in GPT-2.
        residual = 0.02 / math.sqrt(2 * shape.layers)
        hidden, queries, keys = shape.hidden, shape.heads * HEAD_DIM, shape.kv_heads * HEAD_DIM
        self.input_layernorm = Scale(hidden)
        self.self_attn = nn.Module()
        self.self_attn.q_proj = Matrix(hidden, queries)
        self.self_attn.k_proj = Matrix(hidden, keys)
        self.self_attn.v_proj = Matrix(hidden, keys)
        self.self_attn.o_proj = Matrix(queries, hidden, residual)
        self.post_attention_layernorm = Scale(hidden)
        self.mlp = nn.Module()
        self.mlp.gate_proj = Matrix(hidden, shape.mlp)
        self.mlp.up_proj = Matrix(hidden, shape.mlp)
        self.mlp.down_proj = Matrix(shape.mlp, hidden, residual)

    def before_attention(self):
        attention = self.self_attn
        projections = (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight)
        return self.input_layernorm.weight, *projections

    def after_attention(self):
        mlp = self.mlp
        matrices = (mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)
        return self.self_attn.o_proj.weight, self.post_attention_layernorm.weight, *matrices


def _linear(x, weight):
    return F.linear(x, weight.to(x.dtype))


def _norm(x, scale):
    wide = x.float()
    normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)
    return normal.to(x.dtype) * scale.to(x.dtype)


def _rotate(x, cos, sin):
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


# The three compiled blocks, on flat [tokens, hidden]: torch.compile sees one shape whatever the sequence length. They take
# tensors only, so that all layers share one compilation.


def _project(x, cos, sin, scale, query, key, value):
    h = _norm(x, scale)
    q, k, v = (_linear(h, weight).view(len(x), -1, HEAD_DIM) for weight in (query, key, value))
    return _rotate(q, cos, sin), _rotate(k, cos, sin), v


def _finish(x, attended, output, scale, gate, up, down):
    x = x + _linear(attended, output)
    h = _norm(x, scale)
    return x + _linear(F.silu(_linear(h, gate)) * _linear(h, up), down)


def _token_loss(h, target, scale, embedding):
    return F.cross_entropy(_linear(_norm(h, scale), embedding).float(), target, reduction="none")


def _attention_entropy(query, key, probes: int):
    """Mean entropy, in nats, of the attention of `probes` random queries of every sequence and head."""
    batch, heads, length, head_dim = query.shape
    kv_heads = key.shape[1]
    at = torch.randint(length, (probes,), device=query.device)
    grouped = query[:, :, at].reshape(batch, kv_heads, -1, head_dim)
    scores = (grouped @ key.transpose(-1, -2)).float() * head_dim**-0.5
    future = torch.arange(length, device=query.device) > at.repeat(heads // kv_heads)[:, None]
    # A large number instead of infinity: 0 * infinity would be NaN.
    log_share = scores.masked_fill(future, -1e4).log_softmax(-1)
    return -(log_share.exp() * log_share).sum(-1).mean()


def _join(parts):
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class Llama(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.model = nn.Module()
        self.model.embed_tokens = Matrix(shape.hidden, shape.vocabulary)
        self.model.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.model.norm = Scale(shape.hidden)
        inverse_frequency = THETA ** (-torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
        self.register_buffer("inverse_frequency", inverse_frequency, persistent=False)
        self.project, self.finish, self.token_loss = _project, _finish, _token_loss

    def compile_blocks(self) -> None:
        blocks = (_project, _finish, _token_loss)
        self.project, self.finish, self.token_loss = (torch.compile(block, dynamic=False) for block in blocks)

    def hidden(self, ids, positions, length: int, probes: int = 0):
        """Final hidden states [tokens, hidden] of tokens / length sequences laid end to end, and the attention entropy
        of `probes` queries (0 without any), mean over layers."""
        tokens, entropy = ids.shape[0], 0
        angle = positions.float()[:, None] * self.inverse_frequency
        cos, sin = angle.cos()[:, None].split(CHUNK), angle.sin()[:, None].split(CHUNK)
        chunks = list(F.embedding(ids, self.model.embed_tokens.weight).bfloat16().split(CHUNK))
        for layer in self.model.layers:
            weights = layer.before_attention()
            projected = [self.project(x, c, s, *weights) for x, c, s in zip(chunks, cos, sin)]
            q, k, v = (
                _join(part).view(tokens // length, length, -1, HEAD_DIM).transpose(1, 2)
                for part in zip(*projected)
            )
            if probes:
                entropy = entropy + _attention_entropy(q, k, probes) / self.shape.layers
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            attended = attended.transpose(1, 2).reshape(tokens, -1).split(CHUNK)
            chunks = [self.finish(x, y, *layer.after_attention()) for x, y in zip(chunks, attended)]
        return _join(chunks), entropy

    @staticmethod
    def _targets(ids, classes, length: int):
        kinds = classes.roll(-1).clone()
        kinds.view(-1, length)[:, -1] = NONE
        return ids.roll(-1), kinds

    def _logits(self, h):
        return _linear(_norm(h, self.model.norm.weight), self.model.embed_tokens.weight)

    def losses(self, ids, classes, positions, places, choices, length: int, probes: int = 0):
        """Cross-entropy of every next token, the class of that token (NONE at the end of a sequence), and the entropy.

        places [n]: of tokens that others might replace; the loss there is that of the set `choices` [n, any], -1 for
        none: an order that nothing prescribes is not to be learned.
        """
        target, kinds = self._targets(ids, classes, length)
        h, entropy = self.hidden(ids, positions, length, probes)
        weights = self.model.norm.weight, self.model.embed_tokens.weight
        parts = [self.token_loss(a, b, *weights) for a, b in zip(h.split(CHUNK), target.split(CHUNK))]
        losses = torch.cat(parts)
        if len(places):
            log_share = self._logits(h[places - 1]).float().log_softmax(-1)
            right = log_share.gather(1, choices.clamp(min=0)).masked_fill(choices < 0, -1e4)
            losses = losses.index_put((places - 1,), -right.logsumexp(-1))
        return losses, kinds, entropy

    def score(self, ids, classes, positions, places, choices, length: int) -> dict[int, list[int]]:
        """{class: [answers given in full, answers asked]}, each answer given what precedes it."""
        h = self.hidden(ids, positions, length)[0].detach()
        target, kinds = self._targets(ids, classes, length)
        where = (kinds >= MAGIC).nonzero()[:, 0]
        given = self._logits(h[where]).argmax(-1)
        good = given == target[where]
        row = torch.full_like(ids, -1)
        row[places - 1] = torch.arange(len(places), device=ids.device)
        row = row[where]
        good |= (row >= 0) & (choices[row] == given[:, None]).any(-1) if len(places) else False
        # An answer is a run of neighbouring tokens of one class.
        starts = torch.ones_like(good)
        starts[1:] = (where[1:] != where[:-1] + 1) | (kinds[where][1:] != kinds[where][:-1])
        run = starts.cumsum(0) - 1
        right = torch.ones(int(starts.sum()), dtype=torch.bool, device=good.device)
        right[run[~good]] = False
        counts: dict[int, list[int]] = {}
        for kind, is_right in zip(kinds[where][starts].tolist(), right.tolist()):
            entry = counts.setdefault(kind, [0, 0])
            entry[0] += is_right
            entry[1] += 1
        return counts


def export(model: Llama, folder: str | Path, tokenizer) -> None:
    """Write LlamaForCausalLM in bfloat16: sharded safetensors, configuration, tokenizer.

    It is written beside the folder, as ".new", and takes its place as a whole: a kill leaves the old model or the new one
    (`folders.replace`).
    """
    folder = Path(folder)
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    shards: list[dict] = [{}]
    size = total = 0
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().bfloat16().cpu().contiguous()
        if size + tensor.nbytes > _SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
        total += tensor.nbytes
    index = {"metadata": {"total_size": total}, "weight_map": {}}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, new / file, metadata={"format": "pt"})
        index["weight_map"].update(dict.fromkeys(shard, file))
    contents = {
        "model.safetensors.index": index,
        "config": model.shape.config(),
        "generation_config": GENERATION_CONFIG,
    }
    for name, content in contents.items():
        (new / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    save_tokenizer(tokenizer, new)
    folders.replace(new, folder)


def restore(model: Llama, folder: str | Path, tokenizer) -> None:
    """Load an exported folder. Tokens that its vocabulary lacks begin as the mean of those that it has for their text.
    A folder of a tokenizer, without weights, leaves the model as it is."""
    folder, state = Path(folder), {}
    if not any(folder.glob("*.safetensors*")):
        return
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    for file in set(index["weight_map"].values()):
        state.update(load_file(folder / file))
    name = "model.embed_tokens.weight"
    known, own = state[name].float(), model.model.embed_tokens.weight.detach().clone()
    own[: len(known)] = known
    before = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for index in range(before.get_vocab_size(), tokenizer.get_vocab_size()):
        pieces = before.encode(tokenizer.decode([index]), add_special_tokens=False).ids
        own[index] = known[pieces].mean(0)
    state[name] = own
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
