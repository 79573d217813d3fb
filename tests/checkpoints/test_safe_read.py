"""What torch reads from a file, `read_archive` reads too, without torch's unpickler and without what is not data."""

import argparse
import collections
import datetime
import enum
import pathlib
import pickle
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from tessera.checkpoints.safe_read import Foreign, StoredTensor, Tensors, read_archive
from tessera.errors import UsageError
from tests.checkpoints.archives import legacy_file, storage_pickle, zip_file

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
NUMBERS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
DTYPES = [*NUMBERS, torch.bool, torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.float8_e4m3fn, torch.float8_e5m2]


def save(value: object, path: Path, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def same(stored: object, expected: Tensor) -> bool:
    assert isinstance(stored, StoredTensor)
    read = stored.read()
    assert (stored.shape, stored.dtype, stored.nbytes) == (tuple(read.shape), read.dtype, read.numel() * read.element_size())
    assert read.is_contiguous()
    assert read.untyped_storage().nbytes() == stored.nbytes  # nothing beside it is kept
    return read.dtype == expected.dtype and read.shape == expected.shape and bits(read) == bits(expected)


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy().tobytes()


@FORMATS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype: torch.dtype, zipped: bool, tmp_path: Path) -> None:
    content = {"": torch.randn(7, 5).mul(9).to(dtype), "scalar": torch.tensor(1).to(dtype), "none": torch.empty(0, 3, dtype=dtype)}
    archive = read_archive(save(content, tmp_path / "a.bin", zipped))
    assert archive.format == ("zip" if zipped else "legacy")
    assert archive.bytes == (tmp_path / "a.bin").stat().st_size
    assert all(same(archive.tree[name], tensor) for name, tensor in content.items())
    assert archive.foreign == ()


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.permute(2, 0, 1),
    "rows": lambda x: x[2:4],
    "column": lambda x: x[:, 3],
    "every second": lambda x: x[::2, 1::2, ::3],
    "expanded": lambda x: x[:1].expand(9, -1, -1),
    "diagonal": lambda x: x.diagonal(),
    "overlapping": lambda x: x.flatten().unfold(0, 5, 2),
    "nothing": lambda x: x[3:3],
    "one number": lambda x: x[1, 2, 3],
}


@FORMATS
@pytest.mark.parametrize("view", VIEWS)
def test_views(view: str, zipped: bool, tmp_path: Path) -> None:
    base = torch.randn(6, 5, 7)
    tensor = VIEWS[view](base)
    archive = read_archive(save([tensor, base], tmp_path / "a.pth", zipped))
    loaded = torch.load(tmp_path / "a.pth", weights_only=True)[0]
    assert same(archive.tree[0], loaded)
    assert same(archive.tree[1], base)


@given(
    shape=st.lists(st.integers(0, 5), max_size=4),
    order=st.randoms(use_true_random=False),
    step=st.integers(1, 3),
    zipped=st.booleans(),
)
def test_any_view(tmp_path_factory: pytest.TempPathFactory, shape: list[int], order: Any, step: int, zipped: bool) -> None:
    tensor = torch.randn(shape).permute(order.sample(range(len(shape)), len(shape)))
    tensor = tensor[::step] if shape else tensor
    archive = read_archive(save(tensor, tmp_path_factory.mktemp("any") / "a.pth", zipped))
    assert same(archive.tree, tensor)


@FORMATS
def test_tied_tensors_parameters_and_plain_values(zipped: bool, tmp_path: Path) -> None:
    weight = nn.Parameter(torch.randn(3, 4))
    plain = {
        "numbers": [1, -(2**70), 0.5, True, None, 2 + 3j],
        "texts": ("a", "é", b"\x00\xff", bytearray(b"xy")),
        "tied": [weight, weight],
        "dtype": torch.float16,
        "size": torch.Size([2, 3]),
        "device": torch.device("cuda:1"),
        7: {"set": {1}, "frozen": frozenset([2]), "deque": collections.deque([3], maxlen=4), "counter": collections.Counter("aab")},
        "default": collections.defaultdict(list, a=[1]),
        ("pair", 1): collections.OrderedDict(x=1),
    }
    tree = read_archive(save(plain, tmp_path / "a.pth", zipped)).tree
    assert all(same(stored, weight) for stored in tree.pop("tied"))
    assert tree == {
        "numbers": plain["numbers"], "texts": plain["texts"], "dtype": torch.float16, "size": (2, 3), "device": "cuda:1",
        7: {"set": [1], "frozen": [2], "deque": [3], "counter": {"a": 2, "b": 1}}, "default": {"a": [1]}, ("pair", 1): {"x": 1},
    }  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@FORMATS
def test_numpy_values(protocol: int, zipped: bool, tmp_path: Path) -> None:
    arrays = [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)), np.array(3), np.zeros((0, 2))]
    big_endian = np.arange(3, dtype=">f4")
    values = {
        "arrays": arrays,
        "big": big_endian,
        "number": np.float64(0.5),
        "flag": np.bool_(True),
        "text": np.array(["a"]),
        "any": np.array([{}]),
    }
    torch.save(values, tmp_path / "a.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    tree = read_archive(tmp_path / "a.pth").tree
    assert all(same(stored, torch.from_numpy(array)) for stored, array in zip(tree["arrays"], arrays, strict=True))
    assert same(tree["big"], torch.arange(3.0))
    assert (tree["number"], tree["flag"]) == (0.5, True)
    assert isinstance(tree["text"], Foreign)
    assert isinstance(tree["any"], Foreign)


class Block(nn.Module):
    """Parameters, buffers, a list of submodules, one of them used twice, and attributes that are no tensors."""

    scale: float

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.BatchNorm1d(3)])
        self.again = self.layers[0]
        self.small = nn.Parameter(torch.randn(4).half())
        self.register_buffer("steps", torch.tensor(7))
        self.scale, self.names = 0.5, ["a", "b"]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.again(x) * self.scale


def test_torchscript(tmp_path: Path) -> None:
    torch.jit.script(Block()).save(tmp_path / "ViT.pt")
    archive = read_archive(tmp_path / "ViT.pt")
    assert archive.format == "torchscript"
    assert archive.foreign == ()
    expected = torch.jit.load(tmp_path / "ViT.pt").state_dict()
    (state,) = archive.states().values()
    assert state.keys() == expected.keys() >= {"layers.0.weight", "again.weight", "small", "steps"}
    assert all(same(state[name], tensor) for name, tensor in expected.items())
    assert archive.tree["scale"] == 0.5


def test_traced_torchscript(tmp_path: Path) -> None:
    torch.jit.trace(nn.Sequential(nn.Conv2d(3, 4, 2), nn.ReLU()), torch.randn(1, 3, 4, 4)).save(tmp_path / "a.pt")
    state = read_archive(tmp_path / "a.pt").states()[""]
    expected = torch.jit.load(tmp_path / "a.pt").state_dict()
    assert state.keys() == expected.keys()
    assert all(same(state[name], tensor) for name, tensor in expected.items())


def test_safetensors(tmp_path: Path) -> None:
    dtypes = [dtype for dtype in DTYPES if dtype != torch.complex128]
    tensors = {str(dtype): torch.randn(3, 2).mul(9).to(dtype) for dtype in dtypes} | {"none": torch.empty(0, 2), "one": torch.tensor(3)}
    save_file(tensors, tmp_path / "named.pth", {"format": "pt"})
    archive = read_archive(tmp_path / "named.pth")
    assert archive.format == "safetensors"
    assert archive.states().keys() == {""}
    assert all(same(archive.tree[name], tensor) for name, tensor in tensors.items())


def test_safetensors_whose_header_is_as_long_as_the_first_byte_of_a_pickle(tmp_path: Path) -> None:
    for spaces in range(256):
        save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", {"note": " " * spaces})
        if (tmp_path / "a.safetensors").read_bytes()[0] == 0x80:
            break
    assert (tmp_path / "a.safetensors").read_bytes()[0] == 0x80
    assert read_archive(tmp_path / "a.safetensors").states()[""]["a"].shape == (2,)


def test_a_zip_that_was_packed_again_with_compression(tmp_path: Path) -> None:
    content = torch.arange(3000.0).reshape(1000, 3)
    save(content[500:], tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    assert (tmp_path / "b.pth").stat().st_size < 3000 * 4
    assert same(read_archive(tmp_path / "b.pth").tree, content[500:])


def test_records_without_checksums(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        save({"w": torch.ones(3)}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert same(read_archive(tmp_path / "a.pth").tree["w"], torch.ones(3))


def test_legacy_storage_views(tmp_path: Path) -> None:
    """The oldest files mention a part of a storage: (key of the part, first element, number of elements)."""
    storage = "(U\x07storagectorch.cuda\nFloatStorage\nU\x011U\x06cuda:0K\x06(U\x012K\x02K\x03ttQ"
    pickled = f"\x80\x02ctorch._utils\n_rebuild_tensor\n({storage}K\x01(K\x02t(K\x01ttR.".encode("latin1")
    path = legacy_file(tmp_path / "a.th", pickled, {"1": (6, bits(torch.arange(6.0)))})
    assert same(read_archive(path).tree, torch.tensor([3.0, 4.0]))


def test_the_handmade_files_of_these_tests_are_what_torch_reads(tmp_path: Path) -> None:
    expected = torch.arange(6.0).reshape(2, 3)
    zip_file(tmp_path / "zip", storage_pickle(), {"data/0": bits(expected)})
    legacy_file(tmp_path / "legacy", storage_pickle(view="N"), {"0": (6, bits(expected))})
    for path in [tmp_path / "zip", tmp_path / "legacy"]:
        assert torch.equal(torch.load(path, weights_only=True)["w"], expected)
        assert same(read_archive(path).tree["w"], expected)


@FORMATS
def test_a_storage_without_a_tensor_is_a_leaf(zipped: bool, tmp_path: Path) -> None:
    archive = read_archive(save([torch.ones(5).untyped_storage(), torch.ones(2)], tmp_path / "a.pth", zipped))
    assert isinstance(archive.tree[0], Foreign)
    assert same(archive.tree[1], torch.ones(2))


@pytest.fixture
def strange_package() -> Iterator[types.ModuleType]:
    """A package that the writer of a file had and its reader has not."""
    module = types.ModuleType("strange.callbacks")

    class ModelCheckpoint:
        def __init__(self) -> None:
            self.best = torch.ones(2)

    class AttributeDict(dict):
        pass

    class attrdict(dict):
        pass

    class Sizes(list):
        pass

    class Mode(enum.Enum):
        MIN = 1

    class Slotted:
        __slots__ = ("a",)

    class Keywords:
        def __new__(cls, *, a: int) -> "Keywords":
            return super().__new__(cls)

        def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, int]]:
            return (), {"a": 1}

    def lr_lambda(step: int) -> float:
        return 1.0

    members = [ModelCheckpoint, AttributeDict, attrdict, Sizes, Mode, Slotted, Keywords, lr_lambda]
    for member in members:
        member.__module__, member.__qualname__ = module.__name__, member.__name__
        setattr(module, member.__name__, member)
    sys.modules.update({"strange": types.ModuleType("strange"), module.__name__: module})
    yield module
    del sys.modules["strange"], sys.modules[module.__name__]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@FORMATS
def test_foreign_objects_are_skipped_and_listed(strange_package: types.ModuleType, protocol: int, zipped: bool, tmp_path: Path) -> None:
    strange = strange_package
    slotted = strange.Slotted()
    slotted.a = 1
    state = {f"model.{name}": tensor for name, tensor in nn.Linear(2, 3).state_dict().items()}
    checkpoint = {
        "epoch": 3,
        "state_dict": collections.OrderedDict(state),
        "callbacks": {strange.ModelCheckpoint: {"best_model_path": "x", "object": strange.ModelCheckpoint()}},
        "hyper_parameters": strange.AttributeDict(lr=0.1, args=argparse.Namespace(a=[1])),
        "others": [strange.attrdict(a=1), strange.Sizes([1, 2]), strange.Mode.MIN, slotted, strange.lr_lambda, Any],
        "keywords": strange.Keywords(a=1) if protocol > 3 else strange.Keywords,  # older protocols name its __new__, which is a function
        "library": [pathlib.PurePosixPath("/a"), datetime.datetime(2020, 1, 2), datetime.timedelta(1), range(3), type(None)],
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3, 2)}}, "param_groups": []}],
    }
    torch.save(checkpoint, tmp_path / "last.ckpt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    for name in ["strange", "strange.callbacks"]:
        sys.modules[name] = types.ModuleType(name)  # as where the package is not installed
    archive = read_archive(tmp_path / "last.ckpt")
    names = ["ModelCheckpoint", "AttributeDict", "attrdict", "Sizes", "Mode", "Slotted", "Keywords", "lr_lambda"]
    assert {f"strange.callbacks.{name}" for name in names} <= set(archive.foreign)
    assert {"argparse.Namespace", "typing.Any", "pathlib.PurePosixPath", "datetime.datetime"} <= set(archive.foreign)
    assert archive.foreign == tuple(sorted(archive.foreign))
    tree = archive.tree
    assert tree["epoch"] == 3
    assert isinstance(tree["hyper_parameters"], Foreign)
    assert all(isinstance(leaf, Foreign) for leaf in [*tree["others"], *tree["library"], *tree["callbacks"]])
    assert archive.states().keys() == {"state_dict"}
    assert all(same(archive.states()["state_dict"][name.removeprefix("model.")], tensor) for name, tensor in state.items())


def test_a_whole_pickled_module_is_foreign(tmp_path: Path) -> None:
    for zipped in [True, False]:  # the legacy format keeps its source code too
        archive = read_archive(save({"net": nn.Linear(2, 2), "w": torch.ones(1)}, tmp_path / "a.pth", zipped))
        assert isinstance(archive.tree["net"], Foreign)
        assert "torch.nn.modules.linear.Linear" in archive.foreign


def test_sparse_and_quantised_tensors_stay_leaves(tmp_path: Path) -> None:
    sparse = torch.eye(3).to_sparse()
    archive = read_archive(save({"sparse": sparse, "w": torch.ones(2)}, tmp_path / "a.pth"))
    assert isinstance(archive.tree["sparse"], Foreign)
    assert archive.foreign == ("torch._utils._rebuild_sparse_tensor",)


@FORMATS
def test_states_of_a_training_checkpoint(zipped: bool, tmp_path: Path) -> None:
    network = nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = network.state_dict()
    checkpoint = {
        "last_epoch": 1, "model": state, "ema": state, "clip_grad_norm": {"start_iteration": 0},
        "optimizer_and_scheduler": {"none": {"optimizer": optimizer.state_dict()}}, "renamed": optimizer.state_dict(),
        "parts": [{"module.w": torch.ones(1), "_extra_state": None}], "nested": {"a": {"b": {"w": torch.ones(2)}}},
        "mostly numbers": {"x": torch.ones(1), "y": 1, "z": 2},
    }  # fmt: skip
    states = read_archive(save(checkpoint, tmp_path / "a.pth", zipped)).states()
    assert list(states) == ["model", "ema", "parts.0", "nested.a.b"]
    assert list(states["ema"]) == ["weight", "bias"]
    assert list(states["parts.0"]) == ["w"]  # without what data parallelism put before it
    assert same(states["ema"]["weight"], network.weight)


def test_a_flat_file_is_one_state(tmp_path: Path) -> None:
    states = read_archive(save({"w": torch.ones(1), "version": 3}, tmp_path / "a.pth")).states()
    assert [list(state) for state in states.values()] == [["w"]]
    assert list(states) == [""]


def test_keys_with_dots_hide_no_state(tmp_path: Path) -> None:
    content = {"a.b": {"w": torch.ones(1)}, "a": {"b": {"w": torch.zeros(1)}}}
    states = read_archive(save(content, tmp_path / "a.pth")).states()
    assert sorted(float(state["w"].read()) for state in states.values()) == [0, 1]


def test_a_tree_that_contains_itself_and_one_with_countless_paths(tmp_path: Path) -> None:
    circle: dict[str, Any] = {"w": torch.ones(1)}
    circle["self"] = [circle]
    branches: Any = {"w": torch.ones(1)}
    for _ in range(60):  # 2**60 paths
        branches = {"a": branches, "b": branches}
    states = read_archive(save({"circle": circle, "branches": branches}, tmp_path / "a.pth")).states()
    assert "circle" in states
    assert len(states) < 1000


def test_deep_nesting_is_only_data(tmp_path: Path) -> None:
    lists, tuples = 5_000, 150_000  # Python's hash of a tuple as deep as this would end the process
    for pickled in [b"]" * lists + b"a" * (lists - 1) + b".", b"})" + b"\x85" * tuples + b"K\x01s."]:
        archive = read_archive(zip_file(tmp_path / "a.pth", b"\x80\x02" + pickled))
        assert archive.states() == {}


def test_tensors_are_read_when_asked_for_and_not_kept(tmp_path: Path) -> None:
    tensors = {"model.a": torch.randn(2), "model.b.c": torch.randn(3, 2), "loss.x": torch.randn(1)}
    view = Tensors(read_archive(save(tensors, tmp_path / "a.pth")).states()[""])
    assert dict(view.shapes) == {"model.a": (2,), "model.b.c": (3, 2), "loss.x": (1,)}
    model = view.under("model.")
    assert list(model) == ["a", "b.c"]
    assert len(model) == 2
    assert "b.c" in model
    assert "loss.x" not in model
    assert torch.equal(model["b.c"], tensors["model.b.c"])
    assert model["a"] is not model["a"]
    model["a"].zero_()
    assert torch.equal(model["a"], tensors["model.a"])
    with pytest.raises(KeyError):
        model["z"]


def test_no_file(tmp_path: Path) -> None:
    for path in [tmp_path, tmp_path / "missing.pth"]:
        with pytest.raises(UsageError, match="is not a file"):
            read_archive(path)


def test_pickles_of_python_2(tmp_path: Path) -> None:
    """Its texts are bytes and its names others: `__builtin__`, `copy_reg`."""
    thing = b"ccopy_reg\n_reconstructor\n(cmine\nThing\nc__builtin__\nobject\nNtR"
    pickled = b"\x80\x02}(U\x01ac__builtin__\nset\n]K\x01a\x85RU\x01b" + thing + b"U\x01cU\x02xyu."
    archive = read_archive(zip_file(tmp_path / "a.pth", pickled))
    assert archive.tree["a"] == [1]
    assert archive.tree["c"] == "xy"
    assert archive.tree["b"].name == "mine.Thing"
    assert "mine.Thing" in archive.foreign


def test_pickle_module_agrees_on_plain_values(tmp_path: Path) -> None:
    value = {"a": [1.5, None, "é" * 300, -1, 2**40, (1,), ()], 3: {"x": b"y" * 300}}
    for protocol in range(2, 6):
        assert read_archive(zip_file(tmp_path / "a.pth", pickle.dumps(value, protocol))).tree == value
