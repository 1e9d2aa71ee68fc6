from __future__ import annotations

from typing import Any

import pytest
import torch

from esper.errors import ConfigError
from esper.models.vit import Attention, VisionTransformer


@pytest.mark.parametrize(
    ("size", "patches"), [((8, 8), 4), ((3, 3), 1), ((28, 28), 49), ((32, 32), 64), ((29, 29), 1)]
)
def test_an_image_is_cut_into_at_most_64_patches(size: tuple[int, int], patches: int) -> None:
    model = VisionTransformer(10, 1, size, dim=8, depth=1)
    assert model.position.shape == (1, patches, 8)


def test_its_blocks_are_containers_and_its_linears_are_called() -> None:
    """A hook on qkv and proj fires, unlike in torch's own attention."""
    model = VisionTransformer(10, 1, (8, 8), dim=8, depth=2, heads=2)
    seen: list[str] = []
    for name, module in model.named_modules():
        if name.startswith("blocks."):
            module.register_forward_hook(lambda _m, _i, _o, name=name: seen.append(name))
    model(torch.randn(2, 1, 8, 8))
    for block in ("blocks.0", "blocks.1"):
        assert {block, f"{block}.attn", f"{block}.attn.qkv", f"{block}.attn.proj", f"{block}.fc1"} <= set(
            seen
        )


def test_attention_is_the_softmax_of_products() -> None:
    attention = Attention(6, 2, 0.0).double()
    x = torch.randn(3, 5, 6, dtype=torch.float64)
    q, k, v = (part.view(3, 5, 2, 3).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=2))
    weights = (q @ k.transpose(2, 3) / 3**0.5).softmax(3)
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(3, 5, 6))
    assert torch.allclose(attention(x), expected)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"patch_size": 3}, r"patch_size is 3; for images of 8 x 12 pixels it must be one of 1, 2, 4"),
        ({"dim": 10}, "heads is 4; it must divide dim, which is 10"),
        ({"depth": 0}, "depth is 0; it must be a whole number"),
        ({"dropout": 1.0}, r"dropout is 1\.0; it must be at least 0 and below 1"),
    ],
)
def test_impossible_parameters_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VisionTransformer(10, 1, (8, 12), **params)


def test_dropout_acts_in_training_alone() -> None:
    model = VisionTransformer(10, 1, (8, 8), dim=8, depth=1, dropout=0.5)
    images = torch.randn(2, 1, 8, 8)
    assert not torch.equal(model(images), model(images))
    assert torch.equal(model.eval()(images), model(images))
