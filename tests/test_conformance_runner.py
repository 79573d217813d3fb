"""The conformance runner itself: what it accepts, what it refuses, and how it ends."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conformance.__main__ import main
from tests.conformance.cases import Case, matches
from tests.conformance.comparison import compare
from tests.conformance.descriptions import unknown
from tests.conformance.settings import Settings, UnknownSetting, agree, known
from tests.reference.seeded import seeded_state_dict

SMALL = Path(__file__).parent / "reference" / "vq_diffusion" / "process_small"


def copied(folder: Path, **changes: object) -> Path:
    """A copy of a small case under another name, with entries of its `case.json` changed."""
    shutil.copytree(SMALL, folder)
    spec = json.loads((folder / "case.json").read_text()) | changes
    (folder / "case.json").write_text(json.dumps(spec))
    return folder


def case_of(tmp_path: Path, tolerance: dict, recorded: dict[str, Tensor], **spec: object) -> Case:
    outputs = {name: "" for name in recorded if not name.endswith("margin")}
    (tmp_path / "case.json").write_text(json.dumps({"outputs": outputs, "tolerance": tolerance, **spec}))
    save_file(recorded, tmp_path / "io.safetensors")
    return Case.read(tmp_path)


def verdict(case: Case, **computed: Tensor) -> dict[str, bool]:
    return {check.output: check.holds for check in compare(case, computed)}


def test_a_case_under_any_name_passes_and_prints_every_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(tmp_path / "a name that says nothing")
    assert main([str(folder)]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in Case.read(folder).spec["outputs"])


def test_a_changed_value_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(tmp_path / "case")
    io = load_file(folder / "io.safetensors")
    io["posterior_model"][0, 0, 0] += 1e-3
    save_file(io, folder / "io.safetensors")
    assert main([str(folder)]) == 1
    assert "FAIL posterior_model" in capsys.readouterr().out


def test_settings_come_from_the_case(tmp_path: Path) -> None:
    folder = copied(tmp_path / "case")
    spec = json.loads((folder / "case.json").read_text())
    spec["config"]["T"] = 101
    (folder / "case.json").write_text(json.dumps(spec))
    assert main([str(folder)]) == 1


@pytest.mark.parametrize("change", [{"component": "telepathy"}, {"family": "unheard-of"}])
def test_an_unknown_component_ends_with_2(tmp_path: Path, change: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(copied(tmp_path / "case", **change))]) == 2
    assert f"unknown {next(iter(change))}" in capsys.readouterr().out


def test_a_setting_that_nobody_reads_ends_with_2_and_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(tmp_path / "case")
    spec = json.loads((folder / "case.json").read_text())
    spec["config"]["telepathy"] = 0.5
    (folder / "case.json").write_text(json.dumps(spec))
    assert main([str(folder)]) == 2
    assert "config.telepathy = 0.5" in capsys.readouterr().out


def spec_of(tmp_path: Path, family: str, component: str, config: dict, **spec: object) -> Case:
    return case_of(tmp_path, {}, {"x": torch.zeros(1)}, family=family, component=component, config=config, **spec)


def test_a_setting_is_known_where_it_has_no_say_and_nowhere_else(tmp_path: Path) -> None:
    """A loss says nothing of samples, but much of training; one of a parent that nobody read is named with its place."""
    told = {"loss_type": "telepathy"}
    assert unknown(spec_of(tmp_path, "absorbing", "sample", told)) == []
    assert unknown(spec_of(tmp_path, "absorbing", "sampler_training", told)) == ["config.loss_type = 'telepathy'"]
    assert unknown(spec_of(tmp_path, "absorbing", "fid", {})) == []
    assert unknown(spec_of(tmp_path, "v_diffusion", "sampler", {"model": {"f": "tanh", "formula": "any"}})) == ["config.model.f = 'tanh'"]


def test_a_setting_with_one_supported_value_has_that_one(tmp_path: Path) -> None:
    assert unknown(spec_of(tmp_path, "absorbing", "lpips", {"version": "0.1"})) == []
    assert unknown(spec_of(tmp_path, "absorbing", "lpips", {"version": "0.0"})) == ["config.version = '0.0'"]


def test_entries_beside_the_configuration_are_settings_unless_they_are_notes(tmp_path: Path) -> None:
    strange = spec_of(tmp_path, "versatile", "ddim_schedule", {}, notes=["any"], telepathy=[1], weights={"salt": "", "gain": 2.0})
    assert unknown(strange) == ["telepathy = [1]", "weights.gain = 2.0"]


def test_a_value_that_an_adapter_does_not_know_is_named() -> None:
    assert known("config.f", "tanh", {"tanh": 1}) == 1
    with pytest.raises(UnknownSetting, match=r"unknown config\.f 'telepathy' \(known: tanh\)"):
        known("config.f", "telepathy", {"tanh": 1})
    with pytest.raises(UnknownSetting, match="differ"):
        agree("heads", [1, 2])


def test_settings_remember_what_was_read() -> None:
    settings = Settings({"a": 1, "b": {"c": 2, "d": [{"e": 3}, 4]}, "f": 5})
    assert [path for path, _ in settings.unread()] == ["a", "b", "f"]
    assert settings.get("f") == 5
    assert settings["b"]["d"][1] == 4
    assert list(settings.unread()) == [("a", 1), ("b.c", 2), ("b.d.e", 3)]


def test_a_folder_without_cases_ends_with_2(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 2


def test_a_broken_case_is_a_failure_and_the_others_still_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copied(tmp_path / "a").joinpath("io.safetensors").unlink()
    copied(tmp_path / "b").joinpath("case.json").write_text("{")
    copied(tmp_path / "c", config={})
    copied(tmp_path / "d")
    assert main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert [line[:6] for line in printed.splitlines() if not line.startswith(" ")] == ["FAIL a", "FAIL b", "FAIL c", "ok   d", "4 case"]


def test_a_missing_output_a_wrong_shape_and_a_nan_fail(tmp_path: Path) -> None:
    loose = {"atol": 1.0, "rtol": 1.0}
    case = case_of(tmp_path, dict.fromkeys("abc", loose), {name: torch.zeros(2) for name in "abc"})
    assert verdict(case, b=torch.zeros(1, 2), c=torch.tensor([0.0, float("nan")])) == dict.fromkeys("abc", False)
    assert verdict(case, a=torch.ones(2), b=torch.zeros(2), c=torch.zeros(2)) == dict.fromkeys("abc", True)


def test_an_output_without_tolerance_fails(tmp_path: Path) -> None:
    case = case_of(tmp_path, {}, {"a": torch.zeros(2)})
    assert verdict(case, a=torch.zeros(2)) == {"a": False}


def test_absolute_and_relative_tolerance_add_up_and_equal_infinities_agree(tmp_path: Path) -> None:
    recorded = torch.tensor([100.0, float("-inf"), 0.0])
    case = case_of(tmp_path, {"a": {"atol": 0.5, "rtol": 0.01}}, {"a": recorded})
    assert verdict(case, a=recorded + torch.tensor([1.4, 0.0, 0.4])) == {"a": True}
    assert verdict(case, a=recorded + torch.tensor([1.6, 0.0, 0.0])) == {"a": False}
    assert verdict(case, a=torch.tensor([100.0, -1e30, 0.0])) == {"a": False}


def test_the_relative_norm_stands_in_where_isolated_elements_fail(tmp_path: Path) -> None:
    recorded = torch.ones(100)
    flipped = recorded.clone()
    flipped[3] += 0.01
    case = case_of(tmp_path, {"a": {"atol": 1e-4, "rtol": 0.0, "rel_l2": 5e-3}}, {"a": recorded})
    assert verdict(case, a=flipped) == {"a": True}
    assert verdict(case, a=recorded * 1.01) == {"a": False}


def test_exact_means_exact(tmp_path: Path) -> None:
    case = case_of(tmp_path, {"a": {"exact": True}}, {"a": torch.tensor([1, 2])})
    assert verdict(case, a=torch.tensor([1, 2])) == {"a": True}
    assert verdict(case, a=torch.tensor([1, 3])) == {"a": False}


def test_exact_where_the_margin_is_wide_enough(tmp_path: Path) -> None:
    where = {"exact_where": "margin > 1e-3", "float32_vs_float64_mismatches": 0}
    recorded = {"a": torch.tensor([1, 2]), "b": torch.tensor([1, 2])}
    margins = {"a_margin": torch.tensor([1.0, 1e-4]), "drawn_margin": torch.tensor([1e-4, 1.0])}  # the second is b's: no other's
    case = case_of(tmp_path, {"a": where, "b": where}, recorded | margins)
    assert verdict(case, a=torch.tensor([1, 7]), b=torch.tensor([7, 2])) == {"a": True, "b": True}
    assert verdict(case, a=torch.tensor([7, 2]), b=torch.tensor([1, 7])) == {"a": False, "b": False}


def test_tolerances_go_by_pattern_and_by_kind_of_number(tmp_path: Path) -> None:
    tolerance = {"<run>.x": {"exact": True}, "float64 values": {"atol": 0.1, "rtol": 0.0}}
    recorded = {"one.x": torch.zeros(1), "other": torch.zeros(1, dtype=torch.float64)}
    case = case_of(tmp_path, tolerance, recorded)
    assert verdict(case, **{"one.x": torch.zeros(1), "other": torch.full((1,), 0.05)}) == {"one.x": True, "other": True}
    assert verdict(case, **{"one.x": torch.full((1,), 0.05), "other": torch.full((1,), 0.2)}) == {"one.x": False, "other": False}


@pytest.mark.parametrize(
    ("name", "pattern", "fits"),
    [
        ("a.tokens", "<run>.tokens", True),
        ("a.tokens", "*.tokens", True),
        ("tokens", "*.tokens", False),
        ("a+b", "a+b", True),
        ("aab", "a+b", False),
    ],
)
def test_patterns(name: str, pattern: str, fits: bool) -> None:
    assert matches(name, pattern) is fits


def test_weights_are_made_as_the_case_says(tmp_path: Path) -> None:
    manifest = {"a.weight": [2, 3], "b.weight": [2, 3], "c.weight": [2, 3], "norm.weight": [4], "skip": [5]}
    weights = {"salt": "s", "scale": 0.5, "tied": {"b.weight": "a.weight"}, "aliases": {"c.weight": "a.weight"}, "skipped": ["skip"]}
    case = case_of(tmp_path, {}, {"x": torch.zeros(1)}, weights=weights)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    made, plain = case.state_dict(), seeded_state_dict(manifest, "s")
    assert set(made) == {"a.weight", "b.weight", "c.weight", "norm.weight"}
    assert all(torch.equal(made[name], plain["a.weight"] * 0.5) for name in ("a.weight", "b.weight", "c.weight"))
    assert torch.equal(made["norm.weight"], plain["norm.weight"])
    assert set(case.state_dict("c.")) == {"c.weight"}
    assert case.parameters == 27
