"""What a run writes about its data survives it."""

import json
from pathlib import Path

import pytest

from tessera.errors import UsageError
from tessera.model_folder import read_description
from tessera.training.run import train
from tessera.training.tracking import SkippedFile
from tests.data.making import picture
from tests.training.tiny import FLOW, metrics, write


def test_skipped_files_survive_a_resume(tmp_path: Path) -> None:
    """Names of every kind, each once; what only a later step met is forgotten with that step."""
    path = tmp_path / "skipped-0.txt"
    first = SkippedFile(path, 0)
    first.add(1, {"a.png": "it\nis\tcut", "b\n.png": "odd", "caf\udce9.png": "no UTF-8"})
    first.add(4, {"a.png": "it is cut", "later.png": "broken"})
    assert len(first) == 4
    second = SkippedFile(path, 3)
    assert len(second) == 3
    second.add(4, {"b\n.png": "odd", "caf\udce9.png": "no UTF-8", "later.png": "broken"})
    assert len(second) == 4
    lines = path.read_text(encoding="utf-8").split("\n")
    assert [line.split("\t")[:2] for line in lines[:-1]] == [
        ["1", "a.png"],
        ["1", "b\\n.png"],
        ["1", "caf\\udce9.png"],
        ["4", "later.png"],
    ]


LABELLED = FLOW | {
    "model": {**FLOW["model"], "context": {"kind": "labels", "count": 3, "null": "mean"}, "train_context": False}, "steps": 2,
}  # fmt: skip


def classes(root: Path, **splits: str) -> dict[str, object]:
    """A folder with pictures of these classes in its splits."""
    for split, names in splits.items():
        for name in names.split():
            picture(root / split / name / "1.png", 64, 64)
    return {"kind": "imagenet", "root": str(root), "size": 64}


def test_the_model_keeps_the_list_of_classes_and_holds_other_data_to_it(tmp_path: Path) -> None:
    data = classes(tmp_path / "data", train="ant bee cat", val="bee cat")
    run = train(write(tmp_path, LABELLED, data=data, validation={"data": {**data, "split": "val"}, "every": 2}))
    described = read_description(run / "model")["flows"]["text_to_image"]["context"]
    assert described["classes"] == ["ant", "bee", "cat"]
    assert metrics(run, "validation")
    more = {"init": str(run / "model"), "out": str(tmp_path / "more")}
    other = classes(tmp_path / "other", train="bee cat dog")
    with pytest.raises(UsageError, match=r"number 0 is 'bee', of the model 'ant'; give the model's list as `classes`"):
        train(write(tmp_path / "b", LABELLED, data=other, **more))
    with pytest.raises(UsageError, match="the validation data has other classes"):
        train(write(tmp_path / "c", LABELLED, data=data, validation={"data": {**other, "split": "train"}}, out=str(tmp_path / "unmade")))
    with pytest.raises(UsageError, match="has a list of 2 classes, but the model has 3"):
        train(write(tmp_path / "d", LABELLED, data=classes(tmp_path / "few", train="bee cat"), **more))
    train(write(tmp_path / "e", LABELLED, data={**other, "classes": ["ant", "bee", "cat"]}, **more))
    assert "dog" in (tmp_path / "more" / "skipped-0.txt").read_text()
    assert json.loads((tmp_path / "more" / "model" / "model.json").read_text())["flows"]["text_to_image"]["context"] == described
