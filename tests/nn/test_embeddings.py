"""Embeddings: the position table's own width decides, unknown classes get the mean, the sinusoid's formula."""

import math

import torch

from tessera.nn.embeddings import ClassEmbedding, GridEmbedding, SinusoidalEmbedding


def test_position_follows_the_table_not_the_grid() -> None:
    torch.manual_seed(0)
    embedding, tokens = GridEmbedding(5, (3, 4), 6), torch.randint(0, 5, (2, 10))
    for i in range(10):
        expected = embedding.token.weight[tokens[:, i]] + embedding.row.weight[i // 4] + embedding.column.weight[i % 4]
        torch.testing.assert_close(embedding(tokens)[:, i], expected)


def test_a_label_beyond_the_classes_gets_their_mean_and_leaves_other_rows_alone() -> None:
    torch.manual_seed(0)
    embedding = ClassEmbedding(4, 6)
    rows = embedding(torch.tensor([3, 4, 1000, 0]))
    torch.testing.assert_close(rows, torch.stack([embedding.weight[3], *[embedding.weight.mean(0)] * 2, embedding.weight[0]]))


def test_sinusoid() -> None:
    made = SinusoidalEmbedding(50, 8)(torch.tensor([0, 17]))
    for row, index in enumerate((0, 17)):
        angles = [index / 50 * 4000 * math.exp(-math.log(10000) * i / 3) for i in range(4)]
        expected = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)])
        torch.testing.assert_close(made[row], expected, atol=5e-4, rtol=0)  # float32 angles of up to 4000
