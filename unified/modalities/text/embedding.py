"""Words as vectors: a table with learned positions."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unified.core.errors import DataError
from unified.core.types import Tokens
from unified.modalities.base import shared


class TextEmbedding(nn.Module):
    """Ids to vectors: norm(word[id] + position[t] + type[0])."""

    def __init__(self, vocabulary: int, width: int, positions: int, biased: int | None = None) -> None:
        """`biased`: the id to whose word vector a learned bias is added, as prompt tuning has it for [SPE]."""
        super().__init__()
        self.biased = -1 if biased is None else biased
        self.bias = None if biased is None else nn.Parameter(torch.zeros(width))
        self.word = nn.Embedding(vocabulary, width)
        self.positions = positions
        self.position = nn.Embedding(positions, width)
        self.token_type = nn.Embedding(2, width)  # the second row belongs to the published layout and is never read

    def forward(self, tokens: Tokens, norm: nn.Module) -> Float[Tensor, "b n w"]:
        """`norm` is the one that all modalities share; the model holds it, once."""
        time = shared(tokens.position)[..., 0].long()
        if tokens.values.shape[1] > self.positions:
            raise DataError(
                f"a text of {tokens.values.shape[1]} tokens exceeds the {self.positions} positions of "
                "this model; cut it (the tokenizer does so at text.max_length)"
            )
        kind = self.token_type(torch.zeros(1, dtype=torch.long, device=time.device))
        return norm(self.words(tokens.values) + self.position(time) + kind)

    def words(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n w"]:
        """Word vectors, with the learned bias of one of them."""
        words = self.word(ids)
        return words if self.bias is None else words + torch.eq(ids, self.biased)[..., None] * self.bias

    def table(self, ids: Int[Tensor, "v"]) -> Float[Tensor, "v w"]:
        """The word vectors of all ids in order, without that bias.

        A plain table at hand is read whole, which is quicker; one that is wrapped, by an adapter say, or that is kept
        elsewhere says by a call what its vectors are.
        """
        at_hand = type(self.word) is nn.Embedding and not self.word.weight.is_meta and not _is_called(self.word)
        return self.word.weight if at_hand else self.word(ids)

    def prefix(self, index: int, norm: nn.Module, device: torch.device) -> Float[Tensor, "w"]:
        """The vector of one word without position and type: [SPE] at the head of a sequence, which is on `device`."""
        return norm(self.words(torch.full((1,), index, device=device)))[0]


def _is_called(module: nn.Module) -> bool:
    """Whether something waits for calls of a module: hooks, or another `forward` in the place of its own."""
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)
