"""The included feature network: two draws of one world are near each other, damaged pictures are not."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from tessera.data.scenes import LATTICE, Scenes
from tessera.evaluation.extractors import make_extractor
from tessera.evaluation.fid import RunningStatistics, Statistics, frechet_distance
from tessera.evaluation.prdc import prdc
from tessera.evaluation.scenes_features import ScenesFeatures
from tessera.model_folder import ASSETS
from tessera.part_description import WEIGHTS

COUNT, K = 400, 5


@pytest.fixture(scope="module")
def extractor() -> ScenesFeatures:
    made = make_extractor("scenes")
    assert isinstance(made, ScenesFeatures)
    return made


def pictures(split: str, seed: int) -> Tensor:
    return Scenes(split, seed=seed).batch(range(COUNT), 0)[0]


def features(extractor: ScenesFeatures, images: Tensor) -> Tensor:
    return torch.cat([extractor(batch) for batch in images.split(50)])


def statistics(values: Tensor) -> Statistics:
    running = RunningStatistics(values.shape[1])
    running.add(values)
    return running.result()


@pytest.fixture(scope="module")
def drawn() -> Tensor:
    """Held-out scenes other than those of `real`; not to be changed."""
    return pictures("held-out", 1)


@pytest.fixture(scope="module")
def real(extractor: ScenesFeatures) -> Tensor:
    return features(extractor, pictures("held-out", 1000))


@pytest.fixture(scope="module")
def measure(extractor: ScenesFeatures, real: Tensor) -> Callable[[Tensor], tuple[float, float]]:
    """(FID, coverage) of pictures."""
    expected = statistics(real)

    def measured(images: Tensor) -> tuple[float, float]:
        fake = features(extractor, images)
        return frechet_distance(statistics(fake), expected).distance, prdc(real, fake, K).coverage

    return measured


@pytest.fixture(scope="module")
def others(measure: Callable[[Tensor], tuple[float, float]], drawn: Tensor) -> tuple[float, float]:
    return measure(drawn)


def blurred(images: Tensor) -> Tensor:
    return torch.from_numpy(ndimage.gaussian_filter(images.numpy().astype(float), (0, 0, 1, 1)).round().astype(np.uint8))


def shuffled(images: Tensor) -> Tensor:
    """A sixth of the cells of each picture exchanged among themselves."""
    rng = np.random.default_rng(0)
    made = images.clone()
    for image in made:
        cells = image.unflatten(1, (-1, LATTICE)).unflatten(3, (-1, LATTICE)).permute(1, 3, 0, 2, 4).flatten(0, 1)
        chosen = rng.permutation(len(cells))[: len(cells) // 6]
        cells[chosen] = cells[np.roll(chosen, 1)]
        image.copy_(cells.unflatten(0, (8, 8)).permute(2, 0, 3, 1, 4).reshape_as(image))
    return made


def noisy(images: Tensor, levels: float = 8.0) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * levels
    return (images + noise).clamp(0, 255).to(torch.uint8)


def test_other_held_out_scenes_come_near_the_ideal_coverage(others: tuple[float, float]) -> None:
    """1 - 2^-k for the true distribution itself."""
    assert others[1] == pytest.approx(1 - 2**-K, abs=0.04)


@pytest.mark.parametrize("damage", [blurred, shuffled, noisy])
def test_damaged_pictures_are_clearly_worse(
    damage: Callable[[Tensor], Tensor],
    measure: Callable[[Tensor], tuple[float, float]],
    drawn: Tensor,
    others: tuple[float, float],
) -> None:
    distance, coverage = measure(damage(drawn))
    assert distance > 1.5 * others[0]
    assert coverage < others[1] - 0.04


def test_noise_that_nobody_sees_does_not_matter(
    measure: Callable[[Tensor], tuple[float, float]], drawn: Tensor, others: tuple[float, float]
) -> None:
    distance, coverage = measure(noisy(drawn, 1.0))
    assert distance < 1.2 * others[0]
    assert coverage > others[1] - 0.04


def test_a_narrow_model_has_no_coverage(
    measure: Callable[[Tensor], tuple[float, float]], drawn: Tensor, others: tuple[float, float]
) -> None:
    """A few good pictures over and over."""
    few = drawn[:10].repeat(COUNT // 10, 1, 1, 1)
    distance, coverage = measure(few)
    assert coverage < 0.3
    assert distance > 3 * others[0]


def test_pictures_of_other_sizes_are_resized(extractor: ScenesFeatures) -> None:
    image = pictures("train", 0)[:2]
    large = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert extractor(large).shape == extractor(image).shape == (2, extractor.width)


def test_it_is_small() -> None:
    assert (ASSETS / "scenes_features" / WEIGHTS).stat().st_size <= 1_000_000


def test_identity_follows_the_weights(extractor: ScenesFeatures) -> None:
    before = extractor.identity()
    assert make_extractor("scenes").identity() == before
    changed = ScenesFeatures()
    changed.reader.head.bias.data[0] += 1
    assert changed.identity() != before
