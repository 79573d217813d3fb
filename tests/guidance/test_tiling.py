"""Laws of windows on a canvas, for tokens and for floats."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.errors import UsageError
from tessera.guidance.tiling import ROWS, Tiling, Windows, tiled, tiled_floats
from tessera.processes.gaussian import Estimate
from tessera.randomness import Draws
from tests.closeness import assert_same_but_for_rounding

CLASSES = 3


def windows(canvas=(6, 7), window=(4, 4), **options):
    return Windows(canvas, window, Tiling(**options))


def by_place(x_t, t):
    """A denoiser of windows whose answer differs by row, by place in the window and by what it sees there."""
    n = x_t.shape[1]
    logits = torch.arange(n * CLASSES).view(1, n, CLASSES) % 7 + x_t.sum(1)[:, None, None] % 3 * torch.arange(CLASSES)
    return (logits.float() / 3).log_softmax(-1)


def constant(log_p):
    return lambda x_t, t: log_p.expand(*x_t.shape, -1).clone()


def tokens(batch, canvas, seed=0):
    return torch.randint(0, CLASSES + 1, (batch, canvas[0] * canvas[1]), generator=torch.Generator().manual_seed(seed))


def time(batch):
    return torch.ones(batch, dtype=torch.long)


sides = st.integers(1, 5)


@st.composite
def layouts(draw):
    window = draw(sides), draw(sides)
    canvas = window[0] + draw(st.integers(0, 6)), window[1] + draw(st.integers(0, 6))
    stride = draw(st.none() | st.integers(1, min(window)))
    return Windows(canvas, window, Tiling(stride, draw(st.sampled_from(["even", "tent"])), draw(st.booleans())))


@settings(deadline=None)
@given(layout=layouts(), data=st.data())
def test_windows_stand_inside_and_cover_the_canvas_whatever_the_shift(layout, data):
    shift = tuple(data.draw(st.integers(0, stride - 1)) if layout.tiling.moving else 0 for stride in layout.strides)
    places = layout.places(shift)
    covered = torch.zeros(layout.canvas, dtype=torch.bool)
    for top, left in places:
        assert 0 <= top <= layout.canvas[0] - layout.window[0]
        assert 0 <= left <= layout.canvas[1] - layout.window[1]
        covered[top : top + layout.window[0], left : left + layout.window[1]] = True
    assert covered.all()
    assert len(places) == len(layout.places())
    assert (layout.covering() >= 1).all()
    assert (layout.weight() > 0).all()


def test_the_window_that_the_stride_misses_is_added():
    assert windows((4, 9), (4, 4), stride=3).places() == [(0, 0), (0, 3), (0, 5)]


def test_one_window_is_the_denoiser_itself():
    layout = windows((4, 4))
    assert tiled(by_place, layout, Draws(0, [0])) is by_place
    assert tiled_floats(by_place, layout, Draws(0, [0])) is by_place


@settings(deadline=None)
@given(layout=layouts(), batch=st.integers(1, 3))
def test_the_mixture_sums_to_one_and_a_constant_posterior_stays(layout, batch):
    draws = Draws(0, range(batch))
    x_t = tokens(batch, layout.canvas)
    log_p = tiled(by_place, layout, draws)(x_t, time(batch))
    assert log_p.shape == (batch, x_t.shape[1], CLASSES)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(x_t.shape), atol=1e-5, rtol=0)
    known = torch.tensor([0.2, 0.5, 0.3]).log()
    torch.testing.assert_close(tiled(constant(known), layout, draws)(x_t, time(batch)), known.expand(*x_t.shape, -1))


@pytest.mark.parametrize("weights", ["even", "tent"])
def test_the_mixture_is_the_weighted_mean_over_windows(weights):
    """Against the definition, position by position."""
    layout = windows((6, 7), (4, 3), stride=2, weights=weights)
    x_t = tokens(2, layout.canvas)
    log_p = tiled(by_place, layout, Draws(0, [0, 1]))(x_t, time(2)).unflatten(1, layout.canvas)
    canvas = x_t.unflatten(1, layout.canvas)
    for row, i, j in product(range(2), range(6), range(7)):
        total, mass = torch.zeros(CLASSES), 0.0
        for top, left in product((0, 2), (0, 2, 4)):
            if 0 <= i - top < 4 and 0 <= j - left < 3:
                seen = canvas[row, top : top + 4, left : left + 3].flatten()[None]
                weight = float(layout.weight()[i - top, j - left])
                total += weight * by_place(seen, time(1)).exp().view(4, 3, CLASSES)[i - top, j - left]
                mass += weight
        torch.testing.assert_close(log_p[row, i, j].exp(), total / mass, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("stride", "weights"), [(4, "even"), (2, "even"), (2, "tent")])
def test_moving_windows_have_the_mean_of_all_windows(stride, weights):
    """Over all shifts, exactly, away from the border."""
    canvas, window = (16, 14), (4, 4)
    x_t = tokens(1, canvas)

    def probability(layout, shift):
        class Shifted(Windows):
            def draw_places(self, rows, draws):
                return [self.places(shift)] * rows

        made = Shifted(layout.canvas, layout.window, layout.tiling)
        return tiled(by_place, made, Draws(0, [0]))(x_t, time(1)).exp().unflatten(1, canvas)

    moving = windows(canvas, window, stride=stride, weights=weights, moving=True)
    mean = torch.stack([probability(moving, shift) for shift in product(range(stride), repeat=2)]).mean(0)
    every = probability(windows(canvas, window, stride=1, weights=weights), (0, 0))
    inside = (slice(None), slice(4, -4), slice(4, -4))
    torch.testing.assert_close(mean[inside], every[inside], atol=1e-6, rtol=1e-5)


def test_moving_windows_move_and_all_shifts_are_drawn():
    layout = windows((8, 8), (4, 4), stride=2, moving=True)
    draws = Draws(0, [0])
    drawn = [tuple(layout.draw_places(1, draws)[0]) for _ in range(60)]
    assert set(drawn) == {tuple(layout.places(shift)) for shift in product(range(2), repeat=2)}


@settings(deadline=None, max_examples=20)
@given(layout=layouts(), index=st.integers(0, 2), twice=st.booleans())
def test_a_picture_does_not_depend_on_its_batch(layout, index, twice):
    """Nor on whether the batch comes twice over, as it does with guidance: both halves then see the same windows."""
    x_t = tokens(3, layout.canvas)
    times = 2 if twice else 1
    whole = tiled(by_place, layout, Draws(5, range(3)))(x_t.repeat(times, 1), time(3 * times))
    alone = tiled(by_place, layout, Draws(5, [index]))(x_t[index : index + 1], time(1))
    for half in whole.split(3):
        assert_same_but_for_rounding(half[index], alone[0])


def test_the_network_sees_few_windows_at_a_time():
    seen = []

    def counting(x_t, t):
        seen.append(len(x_t))
        return by_place(x_t, t)

    tiled(counting, windows((40, 40), (4, 4), stride=2), Draws(0, range(3)))(tokens(3, (40, 40)), time(3))
    assert max(seen) <= ROWS
    assert sum(seen) == 3 * 19**2


def float_denoiser(x_t, t):
    x_0 = x_t * 0.5 + x_t.mean((1, 2, 3), keepdim=True)
    return Estimate(x_0, (x_t - 0.6 * x_0) / 0.8)


@settings(deadline=None)
@given(layout=layouts(), batch=st.integers(1, 3))
def test_mixed_floats_still_belong_to_x_t(layout, batch):
    x_t = torch.randn(batch, 2, *layout.canvas, generator=torch.Generator().manual_seed(0))
    x_0, eps = tiled_floats(float_denoiser, layout, Draws(0, range(batch)))(x_t, torch.full((batch,), 0.4).double())
    torch.testing.assert_close(0.6 * x_0 + 0.8 * eps, x_t, atol=1e-5, rtol=1e-5)


def test_mixed_floats_are_the_weighted_mean():
    layout = windows((4, 6), (4, 4), stride=2, weights="tent")
    x_t = torch.randn(1, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    x_0 = tiled_floats(float_denoiser, layout, Draws(0, [0]))(x_t, torch.full((1,), 0.4).double()).x_0
    first, second = (float_denoiser(x_t[..., left : left + 4], None).x_0 for left in (0, 2))
    weight = layout.weight()
    torch.testing.assert_close(x_0[..., :2], first[..., :2])
    torch.testing.assert_close(x_0[..., 4:], second[..., 2:])
    middle = (weight[:, 2:] * first[..., 2:] + weight[:, :2] * second[..., :2]) / (weight[:, 2:] + weight[:, :2])
    torch.testing.assert_close(x_0[..., 2:4], middle)


def test_gradients_pass_through_windows():
    layout = windows((4, 8), (4, 4), stride=2)

    def gradient(predict):
        x_t = torch.randn(1, 2, 4, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        (grad,) = torch.autograd.grad(predict(x_t, torch.full((1,), 0.4).double()).x_0.square().sum(), x_t)
        return grad

    def by_hand(x_t, t):
        total, mass = torch.zeros_like(x_t), torch.zeros_like(x_t)
        for left in (0, 2, 4):
            inside = torch.nn.functional.pad(float_denoiser(x_t[..., left : left + 4], t).x_0, (left, 4 - left))
            total = total + inside
            mass[..., left : left + 4] += 1
        return Estimate(total / mass, x_t)

    torch.testing.assert_close(gradient(tiled_floats(float_denoiser, layout, Draws(0, [0]))), gradient(by_hand))


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: Tiling(stride=0), "stride"),
        (lambda: Tiling(weights="tents"), "'tent'"),
        (lambda: windows(stride=5), "leaves gaps between windows of 4x4"),
    ],
)
def test_bad_tilings(made, says):
    with pytest.raises(UsageError, match=says):
        made()
