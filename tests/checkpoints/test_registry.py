"""Cards, the local store and the memory of hashes, with files made for the test."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tessera.checkpoints import cards as cards_module
from tessera.checkpoints.cards import Card, card, cards, check_together, read_cards
from tessera.checkpoints.hashes import digest, remembered
from tessera.checkpoints.registry import card_of, find_local, folders, resolve, status
from tessera.codecs.presets import PRESETS as CODECS
from tessera.errors import TesseraError, UsageError
from tessera.families.absorbing.presets import CODECS as ABSORBING_CODECS
from tessera.families.absorbing.presets import PRESETS as ABSORBING
from tessera.families.v_diffusion.presets import PRESETS as V_DIFFUSION
from tessera.families.versatile.presets import CODECS as VERSATILE_CODECS
from tessera.families.versatile.presets import PRESETS as VERSATILE
from tessera.families.vq_diffusion.presets import PRESETS as VQ_DIFFUSION
from tessera.model_folder import bundled
from tessera.registry import CODECS as KINDS

NETWORKS: dict[str, Any] = {"vq-diffusion": VQ_DIFFUSION, "v-diffusion": V_DIFFUSION, "absorbing": ABSORBING, "versatile": VERSATILE}
ONE: dict[str, Any] = {
    "name": "one",
    "file": "one.pth",
    "kind": "codec",
    "data": "noise",
    "urls": [{"url": "https://example.org/one"}],
    "licence": "none",
    "source": "https://example.org",
}
CONTENT = b"weights"
HASH = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder where files are looked for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TESSERA_MODELS", str(tmp_path / "store"))
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the given cards the only ones."""

    def use(*entries: dict[str, Any]) -> None:
        folder = tmp_path / "families" / "some_family"
        folder.mkdir(parents=True)
        (folder / "cards.yaml").write_text(yaml.safe_dump({"cards": list(entries)}))
        monkeypatch.setattr(cards_module, "FAMILIES", tmp_path / "families")

    return use


def test_every_file_of_the_specification_has_a_card() -> None:
    files = {found.file for found in cards().values()}
    assert files >= {
        "ithq_learnable.pth", "coco_learnable.pth", "coco_pretrained.pth", "cc_learnable.pth", "CC_pretrained.pth", "cub_pretrained.pth",
        "human_pretrained.pth", "imagenet_learnable.pth", "imagenet_pretrained.pth", "ithq_vqvae.pth", "taming_f8_8192_openimages_last.pth",
        "vqgan_imagenet_f16_16384.pth", "vqgan_ffhq_f16_1024.pth", "ViT-B-32.pt",
    }  # fmt: skip
    assert card("ViT-B-32").sha256 == "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
    assert card("vq-diffusion-ithq").hub == "microsoft/vq-diffusion-ithq"


@pytest.mark.parametrize("found", cards().values(), ids=lambda found: found.name)
def test_a_card_names_a_preset_of_its_kind(found: Card) -> None:
    known: Any = {"model": NETWORKS[found.family], "codec": CODECS | ABSORBING_CODECS | VERSATILE_CODECS}.get(found.kind)
    if known is None:
        assert found.configuration is None
    else:
        assert found.configuration in known
    if found.kind == "model":
        config = known[str(found.configuration)].config
        words = config.get("context_width") or "text" in config.get("contexts", ())
        assert found.condition == config.get("condition", "text" if words else "image" if "contexts" in config else "none")
        assert found.learned_null is not None
    assert found.name not in bundled()
    assert "vqgan" in KINDS


def test_cards_are_listed_without_torch() -> None:
    code = (
        "import sys; from tessera.checkpoints.registry import *; [status(c) for c in cards().values()]; assert 'torch' not in sys.modules"
    )
    code = code.replace("import *", "import status; from tessera.checkpoints.cards import cards")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_parts_of_an_address() -> None:
    assert card("coco_learnable").urls[0].parts[-1].endswith("/coco_learnable_ag")
    assert [len(card(name).urls[0].parts) for name in ("coco_learnable", "imagenet_learnable", "taming_vqvae_974")] == [7, 9, 1]


def test_a_card_by_name_or_file() -> None:
    assert card("taming_f8_8192_openimages") is card("taming_f8_8192_openimages_last.pth")
    assert card_of(Path("somewhere") / "coco_learnable.pth") is card("coco_learnable")
    assert card_of(Path("coco_learnable.bin")) is None
    with pytest.raises(UsageError, match="did you mean 'coco_learnable'"):
        card("coco_lernable")


def test_files_of_one_name_are_told_apart_by_their_folders(family: Any, store: Path) -> None:
    family(*({**ONE, "name": run, "file": f"{run}/one.pth"} for run in ("first", "second")))
    assert find_local(card("second")) is None
    for run in ("first", "second"):
        (store / run).mkdir()
        (store / run / "one.pth").write_bytes(CONTENT)
        assert resolve(run) == store / run / "one.pth"
        assert card_of(store / run / "one.pth") is card(run) is card(f"{run}/one.pth")
    assert card_of(store / "one.pth") is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"sha256": "abc", "hash_source": "me"}, r"card 'one', sha256"),
        ({"sha256": "0" * 64}, "somebody who states it"),
        ({"kind": "modle"}, r"card 'one', kind"),
        ({"licens": "MIT"}, r"card 'one', licens"),
        ({"urls": [{"url": "file:///etc/passwd"}]}, r"card 'one', urls, 0, url"),
        ({"urls": []}, r"card 'one', urls"),
        ({"file": "../one.pth"}, r"card 'one', file"),
        ({"file": "run/../../one.pth"}, r"card 'one', file"),
        ({"file": "/run/one.pth"}, r"card 'one', file"),
        ({"file": None}, "either file or hub"),
        ({"hub": "me/one"}, "either file or hub"),
        ({"hub": "not a repository", "file": None}, r"card 'one', hub"),
        ({"size": 0}, r"card 'one', size"),
        ({"size": "large"}, r"card 'one', size"),
        ({"name": None}, r"card None, name"),
    ],
)
def test_a_wrong_card_is_named(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    path = tmp_path / "cards.yaml"
    path.write_text(yaml.safe_dump({"cards": [{**ONE, **change}]}))
    with pytest.raises(TesseraError, match=expected) as caught:
        read_cards(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "cards: 3", "cards: [3]", "notes: []", "cards: [", "cards: []\nnote: x"])
def test_a_file_that_is_no_list_of_cards(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cards.yaml"
    path.write_text(text)
    with pytest.raises(TesseraError, match=r"cards\.yaml"):
        read_cards(path)


def test_cards_that_do_not_fit_each_other(family: Any) -> None:
    one = Card(**ONE, family="x")
    with pytest.raises(TesseraError, match="two cards have the name 'one'"):
        check_together([one, one])
    with pytest.raises(TesseraError, match=r"two cards have the file 'one\.pth'"):
        check_together([one, one.model_copy(update={"name": "two"})])
    with pytest.raises(TesseraError, match="'one' needs 'two', which has no card"):
        check_together([one.model_copy(update={"needs": ("two",)})])


def test_the_family_is_the_folder(family: Any) -> None:
    family(ONE)
    assert {name: found.family for name, found in cards().items()} == {"one": "some-family"}


def test_where_files_are_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TESSERA_MODELS", os.pathsep.join(["/a", "", "~/b"]))
    assert folders() == [Path("/a"), Path.home() / "b"]
    monkeypatch.delenv("TESSERA_MODELS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folders() == [tmp_path / "tessera" / "models"]
    monkeypatch.setenv("XDG_CACHE_HOME", "relative, so not valid")
    assert folders() == [Path.home() / ".cache" / "tessera" / "models"]


def test_the_first_folder_that_has_it(family: Any, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family(ONE)
    second = tmp_path / "second"
    second.mkdir()
    monkeypatch.setenv("TESSERA_MODELS", os.pathsep.join([str(store), str(second)]))
    (second / "one.pth").write_bytes(CONTENT)
    assert resolve("one") == second / "one.pth"
    (store / "one.pth").write_bytes(CONTENT)
    assert resolve("one.pth") == store / "one.pth"


def test_a_file_that_is_not_here(family: Any, store: Path) -> None:
    family(ONE)
    assert status(card("one")).state == "absent"
    with pytest.raises(TesseraError) as caught:
        resolve("one")
    for part in ("one.pth", str(store), "TESSERA_MODELS", "tessera download one", "https://example.org/one"):
        assert part in str(caught.value)
    assert not isinstance(caught.value, UsageError)


def test_a_file_that_is_half_here(family: Any, store: Path) -> None:
    family(ONE)
    (store / "one.pth.part").write_bytes(b"we")
    assert (status(card("one")).state, status(card("one")).bytes) == ("half downloaded", 2)
    with pytest.raises(TesseraError, match=r"only half downloaded.*tessera download one"):
        resolve("one")


def test_a_file_without_a_known_hash(family: Any, store: Path) -> None:
    family(ONE)
    (store / "one.pth").write_bytes(CONTENT)
    assert resolve("one") == store / "one.pth"
    found = status(card("one"))
    assert (found.state, found.check, found.sha256, found.bytes) == ("local", "no known hash", None, len(CONTENT))
    assert status(card("one"), check=True).sha256 == HASH


def test_a_file_is_checked_when_it_is_first_used(family: Any, store: Path) -> None:
    family({**ONE, "sha256": HASH, "hash_source": "me"})
    (store / "one.pth").write_bytes(CONTENT)
    assert status(card("one")).check == "unchecked"
    resolve("one")
    assert status(card("one")).check == "verified"


def test_a_wrong_file_is_refused(family: Any, store: Path) -> None:
    family({**ONE, "sha256": "0" * 64, "hash_source": "me"})
    (store / "one.pth").write_bytes(CONTENT)
    with pytest.raises(TesseraError, match=f"its SHA-256 is {HASH}, expected {'0' * 64}"):
        resolve("one")
    found = status(card("one"))
    assert (found.check, found.sha256) == ("wrong", HASH)


def test_a_hash_is_remembered_until_the_file_changes(store: Path) -> None:
    path = store / "one.pth"
    path.write_bytes(CONTENT)
    assert remembered(path) is None
    assert digest(path) == remembered(path) == HASH
    path.write_bytes(b"WEIGHTS")
    os.utime(path, ns=(0, 0))
    assert remembered(path) is None
    assert digest(path) == hashlib.sha256(b"WEIGHTS").hexdigest()


def test_what_is_remembered_is_not_computed_again_unless_asked(store: Path) -> None:
    path = store / "one.pth"
    path.write_bytes(CONTENT)
    about = path.stat()
    digest(path)
    path.write_bytes(b"WEIGHTS")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))  # damage that leaves size and time as they were
    assert digest(path) == HASH
    assert digest(path, again=True) == hashlib.sha256(b"WEIGHTS").hexdigest()


@pytest.mark.parametrize("left", ["", "[]", "{", '{"a": 3}', '{"PATH": {"sha256": 1}}'])
def test_a_damaged_memory_is_no_harm(store: Path, tmp_path: Path, left: str) -> None:
    path = store / "one.pth"
    path.write_bytes(CONTENT)
    memory = tmp_path / "cache" / "tessera" / "hashes.json"
    memory.parent.mkdir(parents=True)
    memory.write_text(left.replace("PATH", str(path)))
    assert digest(path) == HASH
    assert json.loads(memory.read_text())[str(path)]["sha256"] == HASH


def test_a_memory_that_cannot_be_written_is_no_harm(store: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    (store / "one.pth").write_bytes(CONTENT)
    assert digest(store / "one.pth") == HASH
    assert remembered(store / "one.pth") is None


def test_a_file_that_cannot_be_read(store: Path) -> None:
    with pytest.raises(TesseraError, match="cannot be read"):
        digest(store)


def pipeline(folder: Path) -> Path:
    """A diffusers folder with everything in it."""
    (folder / "transformer").mkdir(parents=True)
    (folder / "scheduler").mkdir()
    index = {"_class_name": "P", "transformer": ["diffusers", "T"], "scheduler": ["diffusers", "S"], "safety": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "transformer" / "config.json").write_text("{}")
    (folder / "transformer" / "weights.bin").write_bytes(CONTENT)
    return folder


def test_a_hub_repository_in_the_store(family: Any, store: Path) -> None:
    family({**ONE, "file": None, "hub": "me/one", "kind": "model"})
    folder = pipeline(store / "one")
    assert resolve("one") == folder
    (folder / "transformer" / "weights.bin").unlink()
    assert find_local(card("one")) is None
    with pytest.raises(TesseraError, match="one is not on this machine"):
        resolve("one")


def test_a_hub_repository_in_the_hubs_cache(family: Any, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    family({**ONE, "file": None, "hub": "me/one", "kind": "model"})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert find_local(card("one")) is None
    home = tmp_path / "hub" / "models--me--one"
    folder = pipeline(home / "snapshots" / "abc")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    assert find_local(card("one")) == folder


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"transformer": 3}'])
def test_a_folder_that_is_no_pipeline(family: Any, store: Path, index: str) -> None:
    family({**ONE, "file": None, "hub": "me/one", "kind": "model"})
    (store / "one").mkdir()
    (store / "one" / "model_index.json").write_text(index)
    assert find_local(card("one")) is None
