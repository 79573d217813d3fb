"""Learning what is in each cell beside the tokens."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from tessera.data.scenes import BACKGROUNDS, COLOURS, SHAPES, Scenes, layout, render
from tessera.errors import UsageError
from tessera.families.vq_diffusion.network import TokenTransformer
from tessera.training.loader import Batches
from tessera.training.recipe import FlowRecipe
from tessera.training.run import make_task
from tests.training.tiny import FLOW


def test_a_layout_names_what_is_drawn_in_each_cell():
    scenes = Scenes("held-out")
    backgrounds = list(BACKGROUNDS.values())
    for i in range(20):
        scene, _ = scenes.describe(i)
        cells = render(scene).reshape(3, 8, 8, 8, 8).transpose(1, 3, 2, 4, 0).reshape(64, 64, 3)  # cell, pixel, colour
        for kind, pixels in zip(layout(scene), cells, strict=True):
            if kind >= len(SHAPES) * len(COLOURS):
                assert (pixels == backgrounds[kind - len(SHAPES) * len(COLOURS)]).all()
        found = {int(kind) for kind in layout(scene) if kind < len(SHAPES) * len(COLOURS)}
        assert found == {thing.kind for thing in scene.things}
        for thing in scene.things:
            middle = render(scene)[:, int(thing.centre[0]), int(thing.centre[1])]
            colour = list(COLOURS.values())[thing.kind % len(COLOURS)]
            assert SHAPES[thing.kind // len(COLOURS)] == thing.shape
            assert thing.shape == "ring" or np.array_equal(middle, colour)


def test_batches_give_the_layouts_of_their_pictures():
    batch = Batches(Scenes(length=10), 3, 4, layouts=True)[5]
    assert batch.image is not None
    assert batch.layouts is not None
    scenes = Scenes(length=10)
    pictures = {render(scenes.describe(i)[0]).tobytes(): layout(scenes.describe(i)[0]) for i in range(10)}
    for image, cells in zip(batch.image, batch.layouts, strict=True):
        assert np.array_equal(pictures[image.numpy().tobytes()], cells.numpy())


def test_layouts_of_data_without_them_are_refused():
    class Without:
        skipped: ClassVar[dict[str, str]] = {}
        fingerprint = "without"

        def __len__(self) -> int:
            return 1

        def example(self, index: int, seed: int) -> None:
            return None

    with pytest.raises(UsageError, match="only scenes do"):
        Batches(Without(), 0, 1, layouts=True)


def layout_task(factor: int) -> tuple[Any, Batches]:
    codec = {"kind": "patch", "classes": 48, "factor": factor, "dim": 24}
    recipe = FlowRecipe(**{**FLOW, "out": "run", "codec": codec, "layout": {"words": 15, "alone": 15}})
    task = make_task(recipe, 64)
    batches = Batches(Scenes(length=24), 0, 8, **task.asks)
    task.begin(batches)
    return task, batches


def test_layouts_of_another_grid_than_the_tokens_are_refused():
    with pytest.raises(UsageError, match="64 cells"):
        layout_task(16)


def test_words_learn_the_layout_first_then_the_network_and_then_the_tokens_too():
    torch.manual_seed(0)
    task, batches = layout_task(8)
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=3e-3)
    seen: dict[str, list[float]] = {"layout_of_words": [], "layout": []}
    for step in range(45):
        optimizer.zero_grad()
        loss, report = task(batches[step], step, batches.size)
        loss.backward()
        learns = {
            "words": task.flow.context_encoder.word_embedding.weight.grad is not None,
            "network": task.flow.network.norm_out.weight.grad is not None,
            "tokens": task.flow.network.head.weight.grad is not None,
        }
        assert learns == {"words": True, "network": step >= 15, "tokens": step >= 30}
        optimizer.step()
        for name, values in seen.items():
            values += [float(report[name])] if name in report else []
    for values in seen.values():
        assert values[0] == pytest.approx(np.log(Scenes.layout_classes), rel=1e-5)
        assert np.mean(values[12:15]) < 0.8 * values[0]
    assert not any("layout" in name for name in task.flow.state_dict())


def test_scaled_weights_start_by_the_number_of_their_inputs():
    made = {
        kind: TokenTransformer(classes=16, grid=(4, 4), width=96, depth=1, heads=2, context_width=32, initialisation=kind)
        for kind in ("released", "scaled")
    }
    std = {kind: float(network.blocks[0].self_attention.query_key_value.weight.detach().std()) for kind, network in made.items()}
    assert std["released"] == pytest.approx(0.02, rel=0.1)
    assert std["scaled"] == pytest.approx((3 * 96) ** -0.5, rel=0.1)
    assert float(made["scaled"].blocks[0].norm_self.linear.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    with pytest.raises(UsageError, match="initialisation"):
        TokenTransformer(classes=16, grid=(4, 4), width=8, depth=1, heads=2, context_width=8, initialisation="scale")
