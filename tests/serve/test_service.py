"""The service draws what the model alone would draw, whoever else asks; it stops when it is told to, and takes no more than its limits."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import tessera
from tessera.contexts.blend import Blend, Seen
from tessera.errors import UsageError
from tessera.families.absorbing.checkpoint import export_network
from tessera.families.absorbing.network import Transformer
from tessera.families.v_diffusion.checkpoint import export_network as export_unet
from tessera.model import Model
from tessera.model_folder import bundled
from tessera.part_folder import save_part
from tessera.record import Record
from tessera.samplers.loop import Callback
from tessera.serve.jobs import Job
from tessera.serve.limits import LIMITS
from tessera.serve.requests import Call, Draw, Edit, visible
from tessera.serve.service import Service
from tessera.serve.shelf import Shelf
from tests.closeness import alike
from tests.families.v_diffusion.small import network
from tests.tiny_floats import tiny_clip, tiny_float_model

WAIT = 300.0


def ended(job: Job) -> Job:
    assert job.wait(WAIT)
    return job


@pytest.fixture
def busy(service: Service) -> Callable[[], None]:
    """The worker is busy when the test begins; what is returned lets it go on."""
    running, go = threading.Event(), threading.Event()

    def run(model: Model, callback: Callback) -> list[object]:
        running.set()
        go.wait(WAIT)
        return []

    service.submit(Call("tiny", run=run), user="")
    assert running.wait(WAIT)
    return go.set


def test_pictures_of_several_users_in_one_batch_are_those_that_each_would_get_alone(service: Service, models: Path, busy) -> None:
    asked = [
        Draw("tiny", prompts=(f"a {colour} circle",), n=n, seed=seed)
        for colour, n, seed in [("red", 1, 5), ("blue", 3, 5), ("green", 2, 9)]
    ]
    jobs = [service.submit(request, user=str(number)) for number, request in enumerate(asked)]
    busy()
    model = tessera.load(models / "tiny")
    for job, request in zip(jobs, asked, strict=True):
        alone = model.text_to_image(request.prompts[0], n=request.n, seed=request.seed)
        assert ended(job).state == "done"
        assert all(alike(*pair) for pair in zip(job.results, alone, strict=True))
        records = [Record.of(picture) for picture in job.results]
        assert [(record.prompt, record.seed, record.index) for record in records] == [
            (request.prompts[0], request.seed, index) for index in range(request.n)
        ]
    assert len({job.started for job in jobs}) == 3
    assert jobs[0].calls == jobs[1].calls == 5


def test_requests_that_fit_share_batches_and_others_wait_their_turn(service: Service, busy, monkeypatch) -> None:
    batches = []
    draw = Service._draw

    def noted(self, rows, jobs):
        batches.append([(jobs_.index(job), number) for job, number in rows])
        draw(self, rows, jobs)

    monkeypatch.setattr(Service, "_draw", noted)
    one = Draw("tiny", prompts=("a red circle",), n=5, seed=0)
    jobs_ = [
        service.submit(request, user=str(number))
        for number, request in enumerate(
            [one, replace(one, settings={"steps": 3}), replace(one, n=6), replace(one, settings={"truncation": 1})]
        )
    ]
    jobs_.append(service.submit(replace(one, settings={"truncation": 1.0}, n=1), user="4"))  # 1 == 1.0, but keeps all tokens, not one
    busy()
    assert [ended(job).state for job in jobs_] == ["done"] * 5
    assert batches == [
        [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (2, 0), (2, 1), (2, 2)],
        [(1, number) for number in range(5)],
        [(2, 3), (2, 4), (2, 5)],
        [(3, number) for number in range(5)],
        [(4, 0)],
    ]


def test_edits_are_drawn_alone_and_keep_the_picture(service: Service, busy) -> None:
    picture = Image.effect_noise((32, 32), 80).convert("RGB")
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 32, 16))
    painted = service.submit(Draw("tiny", prompts=("a red circle",), seed=1, n=2, edit=Edit(picture, mask)), user="a")
    larger = service.submit(Draw("tiny", prompts=("a red circle",), seed=1, edit=Edit(picture, size=(32, 64), anchor="left")), user="b")
    changed = service.submit(Draw("tiny", prompts=("a red circle",), seed=1, init=picture, settings={"start": 0.5}), user="c")
    busy()
    assert [ended(job).state for job in (painted, larger, changed)] == ["done"] * 3
    assert alike(painted.results[0].crop((0, 16, 32, 32)), picture.crop((0, 16, 32, 32)))
    assert alike(larger.results[0].crop((0, 0, 32, 32)), picture)
    assert larger.results[0].size == (64, 32)
    assert Record.of(changed.results[0]).start == 0.5


def test_a_waiting_job_knows_its_place_and_is_cancelled_at_once(service: Service, busy) -> None:
    first, second = (service.submit(Draw("tiny", prompts=("a red circle",)), user=user) for user in "ab")
    assert (service.view(first).position, service.view(second).position) == (1, 2)  # behind what the worker is busy with
    first.cancel()
    assert first.ended.is_set()
    assert first.state == "cancelled"
    busy()
    assert ended(second).state == "done"
    assert first.results == []


def test_a_running_job_stops_within_a_step_and_leaves_others_of_its_batch_alone(service: Service, busy) -> None:
    """The first is cancelled at its third step, by its own user; the second, in the same batch, is finished."""
    request = Draw("tiny", prompts=("a red circle",), seed=3, settings={"steps": 20})
    first, second, third = (service.submit(request, user=user) for user in "abc")
    check, stopped_at = service._check, []

    def checked(jobs) -> None:
        if first.step == 3 and not first.cancelled.is_set():
            first.cancel()
            stopped_at.append(first.step)
        check(jobs)
        if first.ended.is_set() and len(stopped_at) == 1:
            stopped_at.append(first.step)

    service._check = checked
    busy()
    assert ended(first).state == "cancelled"
    assert ended(second).state == ended(third).state == "done"
    assert stopped_at == [3, 3]
    assert first.results == []
    assert alike(second.results[0], third.results[0])


def test_a_batch_that_nobody_wants_any_more_is_given_up(service: Service) -> None:
    job = service.submit(Draw("tiny", prompts=("a red circle",), n=2, settings={"steps": 20}), user="a")
    steps, check = [], service._check

    def checked(jobs) -> None:
        if job.step == 4:
            job.cancel()
        steps.append(job.step)
        check(jobs)

    service._check = checked
    assert ended(job).state == "cancelled"
    assert ended(service.submit(Draw("tiny", prompts=("a blue circle",)), user="b")).state == "done"
    assert max(steps[:6]) <= 5  # the check precedes the count


def test_what_nobody_asks_about_is_cancelled(models: Path) -> None:
    service = Service(Shelf(models), replace(LIMITS, abandoned_seconds=0.0))
    try:
        assert ended(service.submit(Draw("tiny", prompts=("a red circle",)), user="a")).state == "cancelled"
    finally:
        service.close()


def test_one_that_fails_does_not_take_others_along(service: Service, busy) -> None:
    good = Draw("tiny", prompts=("a red circle",), seed=0)
    jobs = [service.submit(request, user=str(number)) for number, request in enumerate([good, replace(good, settings={"steps": 21}), good])]
    wrong_size = service.submit(replace(good, size=(33, 33)), user="x")
    busy()
    assert [ended(job).state for job in jobs] == ["done", "failed", "done"]
    assert "steps must be between 1 and 20" in jobs[1].error
    assert ended(wrong_size).state == "failed"
    assert "33" in wrong_size.error


def test_failures_of_a_shared_batch_are_told_apart(service: Service, busy, monkeypatch) -> None:
    from tessera.flow import TokenFlow

    sample = TokenFlow.sample

    def fails_for_blue(self, prompts, *arguments, **named):
        if any("blue" in prompt for prompt in prompts):
            raise RuntimeError("of a secret place")
        return sample(self, prompts, *arguments, **named)

    monkeypatch.setattr(TokenFlow, "sample", fails_for_blue)
    jobs = [service.submit(Draw("tiny", prompts=(f"a {colour} circle",)), user=colour) for colour in ("red", "blue", "green")]
    busy()
    assert [ended(job).state for job in jobs] == ["done", "failed", "done"]
    assert "secret" not in jobs[1].error


def test_previews_frames_and_time_left(service: Service, busy) -> None:
    job = service.submit(Draw("tiny", prompts=("a red circle",), settings={"steps": 10}, frames=5), user="a")
    busy()
    ended(job)
    assert [frame.index for frame in job.frames] == [1, 2, 4, 6, 8, 10]
    assert job.frames[0].picture.size == (32, 32)
    assert not job.frames[0].decided.all()
    assert job.frames[-1].decided.all()
    assert alike(job.frames[-1].picture, job.results[0])
    view = service.view(job)
    assert (view.fraction, view.finished) == (1.0, 1)


def test_floats_have_frames_too(service: Service) -> None:
    job = ended(service.submit(Draw("tiny-v", prompts=("a red circle",), frames=4), user="a"))
    assert job.state == "done"
    assert job.frames[-1].decided is None
    assert len(job.frames) >= 4


def test_blends_of_pictures_and_words_are_drawn_and_written(service: Service, models: Path, busy) -> None:
    picture, settings = Image.effect_noise((16, 16), 80).convert("RGB"), {"steps": 3}
    like, said = Blend((Seen(picture),)), Blend(texts=("a red circle",))
    asked = [
        Draw("tiny-four", blends=(blend,), to=to, n=2, seed=3, settings=settings) for blend in (like, said) for to in ("image", "text")
    ]
    jobs = [service.submit(request, user=str(number)) for number, request in enumerate([*asked, asked[0].starting(picture, 0.5)])]
    busy()
    assert [ended(job).state for job in jobs] == ["done"] * 5
    model = tessera.load(models / "tiny-four")
    assert all(alike(*pair) for pair in zip(jobs[0].results, model.image_variation(picture, n=2, seed=3, steps=3), strict=True))
    assert jobs[1].results == model.image_to_text(picture, n=2, seed=3, steps=3)
    assert jobs[3].results == model.text_variation("a red circle", n=2, seed=3, steps=3)
    assert Record.of(jobs[4].results[0]).start == 0.5


def test_warnings_are_of_the_own_prompt_only(service: Service, busy) -> None:
    jobs = [service.submit(Draw("tiny", prompts=(f"a {word} circle",)), user=word) for word in ("zebra", "red", "giraffe")]
    busy()
    warnings = [ended(job).warnings for job in jobs]
    assert "zebra" in warnings[0][0]
    assert "giraffe" not in warnings[0][0]
    assert warnings[1] == []


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (Draw("tiny", prompts=("a" * 100_000,)), "characters"),
        (Draw("tiny", prompts=("a",) * 9), "prompts"),
        (Draw("tiny", prompts=("a",), n=10**6), "pictures"),
        (Draw("tiny", prompts=("a",), n=0), "at least 1"),
        (Draw("tiny", prompts=("a",), n=-3), "at least 1"),
        (Draw("tiny", prompts=("a",), seed=-1), "seed"),
        (Draw("tiny", prompts=("a",), seed=2**70), "seed"),
        (Draw("tiny", prompts=("a",), size=(20_000, 20_000)), "pixels"),
        (Draw("tiny", prompts=("a",), size=(0, 32)), "at least 1 pixel"),
        (Draw("tiny", prompts=("a",), settings={"steps": 10**9}), "steps"),
        (Draw("tiny", prompts=("a",), frames=10**6), "frames"),
        (Draw("../../etc/passwd", prompts=("a",)), "unknown model"),
        (Draw("/", prompts=("a",)), "unknown model"),
    ],
)
def test_beyond_the_limits(service: Service, request_: Draw, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        service.submit(request_, user="a")


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"settings": {"steps": -1}}, "steps"),
        ({"settings": {"sampler": "purty"}}, "did you mean 'purity'"),
        ({"settings": {"sampler": "ddim"}}, "ddim"),
        ({"settings": {"guidance": float("nan")}}, "guidance"),
        ({"settings": {"temperature": -1.0}}, "temperature"),
        ({"settings": {"hair": 1}}, "hair"),
        ({"method": "bse"}, "did you mean 'base'"),
        ({"prompts": ()}, "prompt"),
        ({"prompts": ("  ",)}, "empty"),
    ],
)
def test_settings_that_mean_nothing_get_a_sentence(service: Service, changed: dict[str, object], what: str) -> None:
    job = ended(service.submit(replace(Draw("tiny", prompts=("a red circle",)), **changed), user="a"))
    assert job.state == "failed"
    assert what in job.error


def test_pictures_on_the_server_are_not_opened_for_a_prompt(service: Service, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "private.png")
    for prompt in (f"{tmp_path}/private.png", "http://127.0.0.1:1/p.jpg:1", f"a red circle | {tmp_path}/private.png:0.5"):
        job = ended(service.submit(Draw("tiny-v", prompts=(prompt,)), user="a"))
        assert job.state == "failed"
        assert "words" in job.error


def test_the_queue_is_bounded_for_all_and_for_each(models: Path) -> None:
    service = Service(Shelf(models), replace(LIMITS, waiting=4, waiting_of_user=2))
    go = threading.Event()
    try:
        service.submit(Call("tiny", run=lambda model, callback: [go.wait(WAIT)]), user="")
        request = Draw("tiny", prompts=("a red circle",))
        first = [service.submit(request, user="a") for _ in range(2)]
        with pytest.raises(UsageError, match="you have 2"):
            service.submit(request, user="a")
        service.submit(request, user="b")
        with pytest.raises(UsageError, match="try again later"):
            service.submit(request, user="c")
        service.cancel_all("a")
        assert [job.state for job in first] == ["cancelled"] * 2
    finally:
        go.set()
        service.close()


def test_the_shelf_holds_no_more_models_than_it_has_room_for(models: Path) -> None:
    shelf = Shelf(models, first="tiny", room=1)
    assert next(iter(shelf.offers)) == "tiny"
    assert "notes.txt" not in shelf.offers
    first = shelf.model("tiny")
    assert shelf.model("tiny") is first
    shelf.model("tiny-v")
    assert shelf.model("tiny") is not first
    assert shelf.offer("tiny-v").kind == "floats"


def test_links_out_of_the_folder_are_not_offered(models: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").symlink_to(models / "tiny")
    assert "outside" not in Shelf(tmp_path).offers


def test_released_files_of_the_folder(tmp_path: Path) -> None:
    """Files of others are offered by their place in the folder; what cannot be drawn with says why when it is asked for."""
    (tmp_path / "far").mkdir()
    torch.save(export_unet(network("yfcc")), tmp_path / "far" / "mine.pth")
    torch.save(export_unet(network("modulated")), tmp_path / "prompted.ckpt")
    save_file(export_network(Transformer(12, (4, 4), 32, 2, 4)), tmp_path / "absorbing.safetensors")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "far" / "mine.pth").read_bytes()[:5000])
    (tmp_path / "words.pt").write_text("no checkpoint at all")
    save_part(tiny_clip(), tmp_path / "clip")
    tiny_float_model().save(tmp_path / "saved")
    torch.save({}, tmp_path.parent / "outside.pth")
    (tmp_path / "link.pth").symlink_to(tmp_path.parent / "outside.pth")
    service = Service(Shelf(tmp_path))
    try:
        offered = set(service.shelf.offers) - set(bundled())
        assert offered == {"far/mine.pth", "prompted.ckpt", "absorbing.safetensors", "cut.pth", "words.pt", "saved"}
        made = ended(service.submit(Draw("far/mine.pth", settings={"steps": 3}), user="a"))
        assert (made.state, made.error) == ("done", None)
        offer = service.shelf.offer("far/mine.pth")
        assert (offer.kind, offer.size, offer.flows) == ("floats", (16, 16), ["text_to_image"])
        for name, sentence in {
            "prompted.ckpt": "give CLIP", "absorbing.safetensors": "--codec FILE", "cut.pth": "cut.pth", "words.pt": "words.pt"
        }.items():  # fmt: skip
            failed = ended(service.submit(Draw(name, prompts=("a red circle",)), user="a"))
            assert failed.state == "failed"
            assert sentence in failed.error
            assert "nobody expected" not in failed.error
            assert str(tmp_path) not in failed.error
        for name in ("outside.pth", "link.pth", "../outside.pth", str(tmp_path / "prompted.ckpt"), "far/../prompted.ckpt"):
            with pytest.raises(UsageError, match="unknown model"):
                service.submit(Draw(name, prompts=("a red circle",)), user="a")
    finally:
        service.close()


def test_control_characters_are_shown() -> None:
    assert visible("a\x00b\x1b[31m\nc\u202ed\x7f") == "a\u2400b\u241b[31m c\ufffdd\u2421"


def test_closing_ends_everything(models: Path) -> None:
    service = Service(Shelf(models))
    jobs = [service.submit(Draw("tiny", prompts=("a red circle",), n=8), user="a") for _ in range(3)]
    service.close()
    assert all(job.ended.is_set() for job in jobs)
