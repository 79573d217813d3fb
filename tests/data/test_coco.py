import json
from pathlib import Path

import pytest

from tessera.data.coco import COCO
from tessera.errors import TesseraError, UsageError
from tessera.registry import DATASETS, build
from tests.data.laws import check_laws
from tests.data.making import picture, truncate


def make(root: Path, nested: bool = True, split: str = "val2014") -> Path:
    names = [f"COCO_{split}_{i:012}.jpg" for i in (9, 25, 30)]
    for name in names:
        picture(root / split / (split if nested else ".") / name)
    annotations = [{"id": i, "image_id": image, "caption": f"caption {i} \n"} for i, image in enumerate([25, 9, 9, 9, 30, 77])]
    images = [{"id": int(name[-16:-4]), "file_name": name, "width": 40} for name in names]
    write(root, {"info": {}, "images": images, "annotations": annotations}, split)
    return root


def write(root: Path, data: object, split: str = "val2014") -> None:
    (root / "annotations").mkdir(exist_ok=True)
    text = data if isinstance(data, str) else json.dumps(data)
    (root / "annotations" / f"captions_{split}.json").write_text(text)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(("split", "mode"), [("train", "random"), ("val", "centre")])
def test_layout(tmp_path, nested, split, mode):
    root = make(tmp_path, nested, f"{split}2014")
    data = build("dataset", DATASETS, {"kind": "coco", "root": str(root), "size": 16, "split": split})
    assert [name[-6:] for name in data.files] == ["09.jpg", "25.jpg", "30.jpg"]
    assert {data.prompt(0, seed) for seed in range(60)} == {"caption 1", "caption 2", "caption 3"}
    assert data.prompt(1, 0) == "caption 0"
    assert data.crop.mode == mode
    check_laws(data, 16)


def test_another_year(tmp_path):
    assert len(COCO(str(make(tmp_path, split="val2017")), 16, "val", year=2017)) == 3


def test_damage_is_skipped_and_reported(tmp_path):
    root = make(tmp_path)
    truncate(root / "val2014/val2014/COCO_val2014_000000000009.jpg")
    (root / "val2014/val2014/COCO_val2014_000000000025.jpg").unlink()
    data = COCO(str(root), 16, "val")
    assert [data.example(i, 0) is None for i in range(3)] == [True, True, False]
    assert len([path for path in data.skipped if "annotation" not in path]) == 2


def test_picture_without_caption_is_left_out(tmp_path):
    root = make(tmp_path)
    annotations = json.loads((root / "annotations/captions_val2014.json").read_text())
    annotations["annotations"] = [a for a in annotations["annotations"] if a["image_id"] != 25]
    write(root, annotations)
    data = COCO(str(root), 16, "val")
    assert len(data) == 2
    assert list(data.skipped.values()) == ["it is of a picture that `images` does not list", "it has no caption"]


@pytest.mark.parametrize(
    "wrong",
    ["{", "[]", "null", "{}", {"images": [{}], "annotations": []}, {"images": [], "annotations": 3}, {"images": [], "annotations": [{}]}],
)
def test_wrong_json(tmp_path, wrong):
    root = make(tmp_path)
    write(root, wrong)
    with pytest.raises(TesseraError, match=r"captions_val2014\.json"):
        COCO(str(root), 16, "val")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UsageError, match="there is no folder"):
        COCO(str(tmp_path / "absent"))
    with pytest.raises(UsageError, match=r"captions_train2014\.json"):
        COCO(str(tmp_path))
    with pytest.raises(UsageError, match="unknown split 'test'"):
        COCO(str(tmp_path), split="test")
    root = make(tmp_path)
    write(root, {"images": [], "annotations": []})
    with pytest.raises(UsageError, match="holds no captions"):
        COCO(str(root), split="val")
    make(tmp_path, split="train2014")
    (tmp_path / "train2014").rename(tmp_path / "pictures")
    with pytest.raises(UsageError, match="pictures are missing"):
        COCO(str(tmp_path))


@pytest.mark.parametrize("caption", [None, " ", 3, ["a"], {}])
def test_a_caption_that_is_none_costs_that_caption(tmp_path, caption):
    root = make(tmp_path)
    path = root / "annotations/captions_val2014.json"
    said = json.loads(path.read_text())
    said["annotations"] += [{"image_id": 9, "caption": caption}, {"image_id": 25}, "none", {"image_id": [], "caption": "x"}]
    said["images"] += [{"id": 31, "file_name": None}, 7, {"id": {}, "file_name": "x.jpg"}]
    path.write_text("\ufeff" + json.dumps(said), encoding="utf-8")
    data = COCO(str(root), 16, "val")
    assert len(data) == 3
    assert {name.rpartition(", ")[2] for name in data.skipped} == {
        "annotation 5", "annotation 6", "annotation 7", "annotation 8", "annotation 9", "image 3", "image 4", "image 5",
    }  # fmt: skip


def test_json_that_is_too_deep(tmp_path):
    root = make(tmp_path)
    write(root, '{"images": ' + "[" * 100_000)
    with pytest.raises(TesseraError, match="is not JSON"):
        COCO(str(root), 16, "val")
