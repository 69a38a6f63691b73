"""Multiply-accumulates against hand counts."""

from torch import nn

from medistill.models.costs import count_macs


def test_macs_of_hand_counted_layers():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    assert count_macs(model, 16) == 8 * 8 * 8 * 3 * 9 + 8 * 5


def test_macs_of_attention_are_its_two_products():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.project = nn.Conv2d(3, 6, 1)

        def forward(self, images):
            queries = self.project(images).flatten(2).transpose(1, 2)
            return nn.functional.scaled_dot_product_attention(queries[None], queries[None], queries[None])

    tokens = 8 * 8
    by_hand = tokens * 3 * 6 + 2 * tokens * tokens * 6
    assert count_macs(Attention(), 8) == by_hand
    assert count_macs(Attention().to("meta"), 8) == by_hand
