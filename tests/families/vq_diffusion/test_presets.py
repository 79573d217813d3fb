"""The table of sizes says what the networks are."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tessera.errors import UsageError
from tessera.families.vq_diffusion.presets import PRESETS, preset
from tessera.registry import NETWORKS, build


@pytest.mark.parametrize("name", PRESETS)
def test_parameter_count(name: str) -> None:
    with torch.device("meta"):
        network = build("network", NETWORKS, preset(name))
    assert sum(parameter.numel() for parameter in network.parameters()) == PRESETS[name].parameters


def test_scenes_is_the_network_of_its_recipe() -> None:
    recipe = yaml.safe_load((Path(__file__).parents[3] / "recipes" / "scenes.yaml").read_text())
    config = preset("scenes")
    assert recipe["model"]["network"].items() <= config.items()
    assert recipe["model"]["context"]["width"] == config["context_width"]


def test_unknown_preset() -> None:
    with pytest.raises(UsageError, match="did you mean 'coco'"):
        preset("cocoo")


def test_listing_the_sizes_does_not_import_torch() -> None:
    code = "import sys, tessera.families.vq_diffusion.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
