"""All flows on pairs of pictures and words: known answers, skipped pairs, any number of processes."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tessera.data.dataset import Example
from tessera.data.scenes import Scenes
from tessera.errors import UsageError
from tessera.evaluation.extractors import make_extractor
from tessera.evaluation.flow_calls import FlowCall
from tessera.evaluation.flows import FlowsEvaluation
from tessera.evaluation.process_group import Processes
from tests.tiny_floats import tiny_clip

FLOWS = ("text_to_image", "image_to_image", "image_to_text", "text_to_text")
DATA = Scenes("held-out", seed=3, length=1000)


class Known(FlowCall):
    """A flow that makes what is known to be right, or what a function makes of that."""

    def __init__(self, flow: str, change: Callable[[Any], Any] = lambda made: made) -> None:
        self.flow, self.change, self.asked = flow, change, list[tuple[int, int, int]]()
        images, words = DATA.batch(range(20), 0)
        self.pictures = {text: Image.fromarray(image.permute(1, 2, 0).numpy()) for image, text in zip(images, words, strict=True)}
        self.words = {picture.tobytes(): text for text, picture in self.pictures.items()}

    def __call__(self, given: Sequence[Any], seed: int, index: int = 0, callback: Any = None) -> list[Any]:
        self.asked.append((len(given), seed, index))
        found = [(one, self.pictures[one]) if isinstance(one, str) else (self.words[one.tobytes()], one) for one in given]
        return [self.change(words if self.writes_words else picture) for words, picture in found]


def evaluation(calls: Sequence[FlowCall], data: Any = DATA, count: int = 12, **others: Any) -> FlowsEvaluation:
    return FlowsEvaluation(calls, data, count, make_extractor("scenes"), batch_size=6, **others)


@pytest.mark.filterwarnings("ignore:prompt", "ignore:the model does not know")
def test_perfect_flows_have_perfect_numbers() -> None:
    clip = tiny_clip()
    found = evaluation([Known(flow) for flow in FLOWS], clip=clip).run()
    assert found.count == 12
    assert not found.skipped
    values = found.values
    assert values["text_to_image.fid"] == pytest.approx(0, abs=1e-3)  # of singular covariances
    assert values["image_to_image.fid"] == pytest.approx(0, abs=1e-3)
    assert (
        values["text_to_image.right"] == values["image_to_image.same"] == values["image_to_text.right"] == values["text_to_text.same"] == 1
    )
    assert values["image_to_text.bleu"] == pytest.approx(100)
    assert values["text_to_text.bleu"] == pytest.approx(100)
    assert values["text_to_text.differs"] == 0
    assert values["image_to_image.clip_similarity"] == pytest.approx(100, abs=1e-3)
    assert values["text_to_image.clip_score"] == pytest.approx(values["image_to_text.clip_score"], abs=1e-3)  # of the same pairs


def test_what_is_wrong_has_other_numbers() -> None:
    grey = Image.new("RGB", (64, 64), "gray")
    found = evaluation([Known(flow, lambda made: "a star" if isinstance(made, str) else grey) for flow in FLOWS]).run().values
    assert found["text_to_image.fid"] > 1
    assert found["image_to_image.same"] == found["image_to_text.right"] == found["text_to_text.same"] == 0
    assert found["image_to_text.understood"] == 0
    assert found["image_to_text.clauses"] is None
    assert found["image_to_text.bleu"] == 0
    assert found["text_to_text.differs"] == 1


def test_each_pair_has_its_own_number_whatever_is_missing() -> None:
    call = Known("text_to_image")
    evaluation([call], count=13, seed=5).run()
    assert call.asked == [(6, 5, 0), (6, 5, 6), (1, 5, 12)]
    call = Known("image_to_text")
    evaluation([call], Holes({2, 7}, {11}), seed=5).run()
    assert call.asked == [(2, 5, 0), (3, 5, 3), (1, 5, 6), (3, 5, 8)]


class Holes:
    """Scenes as any dataset, of which some cannot be read and some have no words."""

    fingerprint = "holes"

    def __init__(self, unreadable: set[int], wordless: set[int]) -> None:
        self.unreadable, self.wordless, self.skipped = unreadable, wordless, dict[str, str]()

    def __len__(self) -> int:
        return 12

    def example(self, index: int, seed: int) -> Example | None:
        if index in self.unreadable:
            self.skipped[f"{index}.png"] = f"{index}.png is damaged"
            return None
        return DATA.example(index, seed)._replace(prompt=None) if index in self.wordless else DATA.example(index, seed)


def test_pairs_that_are_not_whole_are_skipped_and_counted() -> None:
    found = evaluation([Known(flow) for flow in FLOWS], Holes({2, 7}, {11})).run()
    assert found.count == 9
    assert found.skipped == {"2.png": "2.png is damaged", "7.png": "7.png is damaged", "example 11": "example 11 comes without words"}
    assert found.values["text_to_text.bleu"] == pytest.approx(100)
    assert "text_to_image.right" not in found.values  # nobody knows the scene
    pixels = "".join(
        hashlib.sha256(b"[3, 64, 64]" + DATA.example(index, 0).image.numpy().tobytes()).hexdigest()
        for index in range(12) if index not in (2, 7, 11)
    )  # fmt: skip
    assert found.pixels == hashlib.sha256(pixels.encode()).hexdigest()


def test_no_pair_at_all_is_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"none of the 12 examples has a picture and words: .*0\.png is damaged"):
        evaluation([Known("text_to_text")], Holes(set(range(12)), set())).run()


class Part(Processes):
    """A process whose others have left what they tell in a list."""

    def __init__(self, rank: int, count: int, told: list[Any]) -> None:
        super().__init__(rank, count)
        object.__setattr__(self, "told", told)

    def gather(self, value: Any) -> list[Any]:
        self.told.append(value)  # type: ignore[attr-defined]
        return self.told if len(self.told) == self.count else [value]  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [2, 3])
def test_parts_of_several_processes_make_the_numbers_of_one(count: int) -> None:
    def change(made: Any) -> Any:
        return made.rotate(90) if isinstance(made, Image.Image) else made.replace("red", "blue")

    told: list[Any] = []
    found = [evaluation([Known(flow, change) for flow in FLOWS], processes=Part(rank, count, told)).run() for rank in range(count)][-1]
    alone = evaluation([Known(flow, change) for flow in FLOWS]).run()
    assert (found.count, found.pixels, found.words) == (alone.count, alone.pixels, alone.words)
    assert found.values.keys() == alone.values.keys()
    for name, value in alone.values.items():
        assert found.values[name] == (None if value is None else pytest.approx(value, rel=1e-6)), name


def test_what_was_made_is_kept_by_number(tmp_path: Path) -> None:
    calls = [Known(flow) for flow in FLOWS]
    evaluation(calls, count=3, folder=tmp_path).run()
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")} == {
        f"{flow}/{number:06}.{'txt' if flow.endswith('text') else 'png'}" for flow in FLOWS for number in range(3)
    }
    words = DATA.example(1, 0).prompt
    assert (tmp_path / "image_to_text" / "000001.txt").read_text() == f"{words}\n"
    with Image.open(tmp_path / "text_to_image" / "000001.png") as picture:
        assert picture.tobytes() == calls[0].pictures[words].tobytes()


def test_processes_take_turns_on_gpus_and_share_the_cpu() -> None:
    assert Processes().device("auto") == "auto"
    assert Processes(1, 4, 1).device("cuda") == "cuda:1"
    assert Processes(1, 4, 1).device("cpu") == "cpu"
    assert Processes(1, 4, 1).device("auto") == ("cuda:1" if torch.cuda.is_available() else "auto")
