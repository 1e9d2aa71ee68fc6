"""A small vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929), pooled by its mean."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.errors import ConfigError
from esper.models.arguments import fraction, positive_int

# Default patches: 64 at most, none below 4 x 4 pixels, because a smaller patch holds too little
# (accuracy on digits: 26 % with single pixels, 84 % with 2 x 2, 98 % with 4 x 4).
DEFAULT_PATCHES = 64
DEFAULT_SIDE = 4


class Attention(nn.Module):
    """Self-attention over (batch, tokens, dim), made of linear layers that can each be a target layer."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, dim))


class Block(nn.Module):
    """Attention and a two-layer perceptron, each with a layer norm before it and a residual connection."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.fc2(self.act(self.fc1(self.norm2(x)))))


class VisionTransformer(nn.Module):
    """Patch embedding, `blocks.0`, `blocks.1`, ..., norm, mean over the patches, `head`.

    Input (batch, channels, *image_size), output (batch, num_classes).

    Args:
        num_classes: number of logits.
        channels: channels of an image.
        image_size: (height, width) in pixels.
        patch_size: side of a patch in pixels, which must divide both sides of the image; None takes the
            smallest from 4 on that makes at most 64 patches.
        dim: width of a token.
        depth: number of blocks.
        heads: attention heads of a block; must divide `dim`.
        mlp_ratio: hidden width of a block's perceptron, in multiples of `dim`.
        dropout: probability in [0, 1).

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        image_size: tuple[int, int],
        *,
        patch_size: int | None = None,
        dim: int = 64,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for key, value in (("dim", dim), ("depth", depth), ("heads", heads), ("mlp_ratio", mlp_ratio)):
            positive_int(key, value)
        if dim % heads:
            raise ConfigError(f"model.model_params.heads is {heads}; it must divide dim, which is {dim}")
        dropout = fraction("dropout", dropout)
        patch = _patch_size(image_size, patch_size)
        patches = (image_size[0] // patch) * (image_size[1] // patch)
        self.patch_embed = nn.Conv2d(channels, dim, patch, patch)
        self.position = nn.Parameter(torch.empty(1, patches, dim))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.blocks = nn.Sequential(*(Block(dim, heads, mlp_ratio * dim, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))


def _patch_size(image_size: tuple[int, int], requested: int | None) -> int:
    height, width = image_size
    sizes = [side for side in range(1, min(image_size) + 1) if height % side == width % side == 0]
    if requested is None:
        few = [side for side in sizes if height * width // side**2 <= DEFAULT_PATCHES]
        return next((side for side in few if side >= DEFAULT_SIDE), (few or sizes)[-1])
    if requested not in sizes:
        raise ConfigError(
            f"model.model_params.patch_size is {requested!r}; for images of {height} x {width} pixels it "
            f"must be one of {', '.join(map(str, sizes))}"
        )
    return requested
