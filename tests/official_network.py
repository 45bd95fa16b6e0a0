"""The published arithmetic on the tensors of an official file: dense and with experts, all tasks, prompts, generation.

Plain loops over a dict of tensors, no code of the package; see `tests/official.py`, whose norm, positions and caption
mask it uses. So the conversion is under test too.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.official import caption_blocked, norm

ROWS = {
    "picture": [1, 0, 0, 1, 1, 0, 0, 0],
    "text": [0, 1, 0, 1, 0, 1, 0, 0],
    "picture of caption": [1, 1, 0, 1, 1, 0, 0, 0],
    "caption": [1, 1, 0, 1, 0, 1, 0, 1],
    "name": [1, 0, 0, 1, 0, 1, 1, 0],
    "word": [1, 1, 0, 1, 0, 1, 1, 0],
}
"""The attribute vectors, as the published table has them."""
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@dataclass
class Parts:
    """A sequence of one or two parts: the row of each, and where the second begins."""

    rows: list[str]
    cut: int
    target: bool = False


@dataclass
class Official:
    """An official model."""

    w: dict[str, Tensor]
    heads: int
    spe: int
    end: int

    @property
    def depth(self) -> int:
        return 1 + max(int(key.split(".")[2]) for key in self.w if key.startswith("fused_encoder.layers."))

    def pictures(self, video: Tensor) -> Tensor:
        """uint8 (b, t, 3, h, w) -> (b, t·patches, C)."""
        e, frames = "video_embed.", []
        for t in range(video.shape[1]):
            pixels = (video[:, t].float() / 255 - MEAN[:, None, None]) / STD[:, None, None]
            kernel = self.w[f"{e}embeddings.weight"]
            grid = F.conv2d(pixels, kernel, self.w[f"{e}embeddings.bias"], stride=kernel.shape[-1])
            place = self.w[f"{e}embeddings_st_pos.spatial_pos_embed.weight"]
            time = self.w[f"{e}embeddings_st_pos.temporal_pos_embed.weight"][t]
            frames.append(grid.flatten(2).transpose(1, 2) + place + time)
        return norm(self.w, f"{e}embeddings_norm", torch.cat(frames, 1))

    def word(self, ids: Tensor) -> Tensor:
        x = self.w["token_embed.embeddings.weight"][ids]
        if "s_token_bias" in self.w:
            x = torch.where((ids == self.spe)[..., None], x + self.w["s_token_bias"][0], x)
        return x

    def texts(self, ids: Tensor, first: int = 0) -> Tensor:
        e = "token_embed."
        place = self.w[f"{e}embeddings_pos.position_embeddings.weight"][first : first + ids.shape[1]]
        return norm(
            self.w, f"{e}embeddings_norm", self.word(ids) + place + self.w[f"{e}embeddings_token_type.weight"][0]
        )

    def prefix(self, rows: int) -> Tensor:
        return norm(self.w, "token_embed.embeddings_norm", self.word(torch.full((rows, 1), self.spe)))

    def gate(self, module: str, row: str) -> dict[int, float]:
        """The two experts of a row and their weights."""
        g = f"{module}.gate"
        a = torch.tensor(ROWS[row], dtype=torch.float)
        hidden = self.w[f"{g}.tag_transform.0.weight"] @ a + self.w[f"{g}.tag_transform.0.bias"]
        logits = self.w[f"{g}.wg.weight"] @ norm(self.w, f"{g}.tag_transform.1", hidden)
        p = logits.exp() / logits.exp().sum()
        i, j = sorted(range(len(p)), key=lambda k: -float(p[k]))[:2]
        total = float(p[i] + p[j])
        return {i: float(p[i]) / total, j: float(p[j]) / total}

    def linear(self, module: str, decides: str, x: Tensor, parts: Parts, cut: int) -> Tensor:
        """A linear; one with experts follows the gate of `decides`, on both sides of the cut by its own row."""
        if f"{module}.weight" in self.w:
            return x @ self.w[f"{module}.weight"].T + self.w[f"{module}.bias"]
        sides = []
        for side, row in zip((x[:, :cut], x[:, cut:]), parts.rows, strict=False):
            y = torch.zeros(())
            for expert, weight in self.gate(decides, row).items():
                e = f"{module}.experts.deepspeed_experts.{expert}"
                y = y + weight * (side @ self.w[f"{e}.weight"].T + self.w[f"{e}.bias"])
            sides.append(y)
        return torch.cat(sides, 1)

    def attention(self, layer: int, h: Tensor, blocked: Tensor, parts: Parts) -> Tensor:
        """Self-attention on normed states; learned prompts are further keys and values, before the others."""
        base = f"fused_encoder.layers.{layer}"
        keys, cut, (batch, length, width) = h, parts.cut, h.shape
        table = "target_embedding" if parts.target else "embedding"
        prompt = self.w.get(f"{base}.deep_prompt_embedding.{table}.weight")
        prompt = self.w.get(f"{base}.deep_prompt_embedding.embedding.weight") if prompt is None else prompt
        key_cut = cut
        if prompt is not None:
            keys = torch.cat([norm(self.w, f"{base}.norm1", prompt).expand(batch, -1, -1), h], 1)
            blocked = torch.cat([blocked.new_zeros(batch, length, len(prompt)), blocked], 2)
            key_cut = cut + len(prompt)
        if f"{base}.self_attn.in_proj_weight" in self.w:
            weight, bias = self.w[f"{base}.self_attn.in_proj_weight"], self.w[f"{base}.self_attn.in_proj_bias"]
            q = (h @ weight.T + bias)[..., :width]
            k, v = (keys @ weight.T + bias)[..., width:].split(width, -1)
            out, module = f"{base}.self_attn.out_proj", ""
        else:
            module, out = f"{base}.self_attn.qkv_proj", f"{base}.self_attn.dense"
            q = self.linear(module, module, h, parts, cut)[..., :width]
            k, v = self.linear(module, module, keys, parts, key_cut)[..., width:].split(width, -1)
        size = width // self.heads
        mixed = []
        for head in range(self.heads):
            part = slice(head * size, (head + 1) * size)
            scores = (q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(size)).masked_fill(blocked, -math.inf)
            mixed.append(scores.softmax(-1) @ v[..., part])
        return self.linear(out, module, torch.cat(mixed, -1), parts, cut)

    def encode(self, x: Tensor, blocked: Tensor, parts: Parts) -> Tensor:
        """`blocked` (b, q, k): True = may not attend."""
        for layer in range(self.depth):
            base = f"fused_encoder.layers.{layer}"
            attended = self.attention(layer, norm(self.w, f"{base}.norm1", x), blocked, parts)
            x = x + self.w[f"{base}.gamma_1"] * attended
            h = norm(self.w, f"{base}.norm2", x)
            h = self.linear(f"{base}.linear1", f"{base}.linear1", h, parts, parts.cut)
            h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
            x = x + self.w[f"{base}.gamma_2"] * self.linear(f"{base}.linear2", f"{base}.linear1", h, parts, parts.cut)
        return x

    def projected(self, states: Tensor) -> Tensor:
        y = norm(self.w, "loss_prepare.ln_post", states)
        return y @ self.w["loss_prepare.proj.weight"].T + self.w["loss_prepare.proj.bias"]

    def features(self, states: Tensor) -> Tensor:
        y = self.projected(states)
        return y / y.norm(dim=-1, keepdim=True)

    def scale(self, family: str) -> float:
        return min(math.exp(self.w[f"loss_prepare.logit_scale_{family}"]), 100.0)

    def picture_states(self, video: Tensor, row: str = "picture") -> Tensor:
        x = torch.cat([self.prefix(len(video)), self.pictures(video)], 1)
        return self.encode(x, torch.zeros(len(x), x.shape[1], x.shape[1], dtype=torch.bool), Parts([row], x.shape[1]))

    def text_states(self, ids: Tensor, real: Tensor, row: str, *, target: bool = False) -> Tensor:
        x = torch.cat([self.prefix(len(ids)), self.texts(ids)], 1)
        keys = torch.cat([torch.ones(len(ids), 1, dtype=torch.bool), real], 1)
        return self.encode(x, ~keys[:, None].expand(-1, x.shape[1], -1), Parts([row], x.shape[1], target))

    def names(self, ids: Tensor, real: Tensor, row: str = "name") -> Tensor:
        return self.features(self.text_states(ids, real, row, target=True)[:, 0])

    def classify(self, video: Tensor, ids: Tensor, real: Tensor, family: str) -> Tensor:
        states = self.picture_states(video)[:, 0]
        logits = self.features(states) @ self.names(ids, real).T * self.scale(family)
        if "fc_prompt.weight" in self.w:
            linear = self.projected(states) @ self.w["fc_prompt.weight"].T + self.w["fc_prompt.bias"]
            logits = self.w["similarity_weight"] * logits + linear
        return logits

    def vocabulary(self) -> Tensor:
        words = torch.tensor([[word, self.end] for word in range(len(self.w["token_embed.embeddings.weight"]))])
        return self.names(words, torch.ones_like(words, dtype=torch.bool), "word")

    def caption(self, video: Tensor, ids: Tensor, real: Tensor) -> Tensor:
        """The states of the queries (b, n, C), with the right words before."""
        start = torch.cat([self.prefix(len(video)), self.pictures(video)], 1)
        x = torch.cat([start, self.texts(ids), self.texts(torch.full_like(ids, self.spe))], 1)
        blocked = caption_blocked(start.shape[1], ids.shape[1])[None].repeat(len(ids), 1, 1)
        keys = torch.cat([torch.ones(len(ids), start.shape[1], dtype=torch.bool), real, real], 1)
        blocked |= ~keys[:, None] & ~torch.eye(x.shape[1], dtype=torch.bool)
        rows = ["picture of caption", "caption"]
        return self.encode(x, blocked, Parts(rows, start.shape[1]))[:, -ids.shape[1] :]

    def next_word(self, video: Tensor, before: list[int], words: Tensor) -> Tensor:
        """Similarities (v,) of the word after `before` for one picture, everything computed anew."""
        ids = torch.tensor([[*before, self.end]])  # the last one is not seen by its query
        states = self.caption(video, ids, torch.ones_like(ids, dtype=torch.bool))[0, -1]
        return self.features(states) @ words.T * self.scale("caption")

    def beam_search(self, video: Tensor, beams: int, length: int) -> tuple[list[int], float]:
        """The most probable caption of one picture (1, t, 3, h, w), and its log-probability."""
        words, open_ = self.vocabulary(), [([], 0.0)]
        for _ in range(length):
            grown: list[tuple[list[int], float]] = []
            for ids, total in open_:
                if ids and ids[-1] == self.end:
                    grown.append((ids, total))
                    continue
                chances = self.next_word(video, ids, words).log_softmax(0)
                grown += [([*ids, word], total + float(chance)) for word, chance in enumerate(chances)]
            open_ = sorted(grown, key=lambda item: -item[1])[:beams]
        ids, total = open_[0]
        return (ids[: ids.index(self.end)] if self.end in ids else ids), total
