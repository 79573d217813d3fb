"""Peak memory of text-to-image with the full four-flow model (2.57 G parameters), beside the weights that this flow needs.

    python benchmarks/versatile_memory.py                                         # from released files, and from a model folder
    python benchmarks/versatile_memory.py --size 256 --steps 1 --only released    # a quick look

The files are made here, in a temporary folder: all weights are 0, which need as much memory as any others. `vd-four-flow-v1-0.pth` and
`kl-f8.pth` store one number per tensor, CLIP ViT-L/14 (1.7 GB, in transformers' layout) and the model folder (13 GB) all of them. Each is
loaded with flows=["text_to_image"] in a process of its own, which draws one picture with guidance. Counted is the resident memory of the
process, as Linux reports its peak (VmHWM; pages of libraries and of other files that it has mapped count too): the whole of it, and what
it grew by after Python and torch were imported ("before").

The weights that the flow needs: the network's layers of time, pictures and words (859.5 M), CLIP's text tower with its projection
(123.7 M) and the KL autoencoder (83.7 M).
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from itertools import islice, product
from pathlib import Path
from typing import Any

TARGET = 1.15
SOURCES = ("released", "folder")
TEXT = {"length": 77, "layers": 12, "width": 768, "heads": 12, "vocabulary": 49408}
IMAGE = {"size": 224, "patch": 14, "layers": 24, "width": 1024, "heads": 16}


def four_flows() -> Any:
    """The model at full size. Its tensors store a single 0 each."""
    import torch

    from tessera.codecs.kl import KLAutoencoder
    from tessera.codecs.text_vae import TextVAE
    from tessera.contexts.clip_tokens import CLIPTokens
    from tessera.families.versatile.network import MultiFlowUNet
    from tessera.families.versatile.presets import CODECS, FLOWS, PRESETS
    from tessera.families.versatile.released import BLANK, FAMILY, SETTINGS
    from tessera.float_flow import FloatFlow
    from tessera.model import Model
    from tessera.processes.gaussian import GaussianProcess
    from tessera.processes.gaussian_loss import GaussianLoss
    from tessera.processes.gaussian_schedules import LinearBeta

    def made(kind: Any, config: dict[str, Any]) -> Any:
        with torch.device("meta"):
            part = kind(**{key: value for key, value in config.items() if key != "kind"})
        state = {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in part.state_dict().items()}
        part.load_state_dict(state, assign=True)
        return part.eval()

    network = made(MultiFlowUNet, PRESETS["four-flow"].config)
    codecs = {"image": made(KLAutoencoder, CODECS["kl-f8"]), "text": made(TextVAE, CODECS["optimus"])}
    clip = made(CLIPTokens, {"text": TEXT, "image": IMAGE, "width": TEXT["width"]})
    clip.use_merges(merges())
    loss = GaussianLoss(GaussianProcess(LinearBeta()), "eps")
    read = {"text": "words", "image": "pictures"}
    flows = {
        name: FloatFlow(codecs[data], clip.view(read[context], BLANK.get(name)), network.view(data, context), loss)
        for name, (data, context) in FLOWS.items()
    }
    return Model("full", FAMILY, flows, (512, 512), SETTINGS)


def merges() -> list[str]:
    """As many as CLIP's tokenizer has, but of no language."""
    from tessera.contexts.tokenizer import CLIP_MERGES, ClipTokenizer

    symbols = list(ClipTokenizer([]).vocabulary)[:512]
    return [f"{left} {right}" for left, right in islice(product(symbols[:256], symbols), CLIP_MERGES)]


def write(source: str, folder: Path) -> dict[str, str]:
    """Makes the files, and returns the arguments of `load`."""
    import torch

    from tessera.families.versatile.checkpoint import LAYOUTS, export_network
    from tessera.families.versatile.kl_checkpoint import kl_to_released
    from tessera.tensor_files import TensorSource, write_tensors

    model = four_flows()
    if source == "folder":
        return {"source": str(model.save(folder / "model"))}
    flow = model.flows["text_to_image"]
    torch.save(export_network(flow.network.whole, LAYOUTS["four-flow"]), folder / "vd-four-flow-v1-0.pth")
    torch.save(kl_to_released(flow.codec), folder / "kl-f8.pth")
    clip = flow.context_encoder.whole
    place = folder / "clip-vit-large-patch14"
    place.mkdir()
    config = {"model_type": "clip", "projection_dim": TEXT["width"], "text_config": tower(TEXT), "vision_config": tower(IMAGE)}
    (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (place / "merges.txt").write_text("\n".join(["#version: 0.2", *clip.tokenizer.merges, ""]), encoding="utf-8")
    state = clip.clip.state_dict()
    write_tensors(place, "model.safetensors", {name: TensorSource.of(value, torch.float32) for name, value in state.items()})
    return {"source": str(folder / "vd-four-flow-v1-0.pth"), "codec": str(folder / "kl-f8.pth"), "clip": str(place)}


def tower(sizes: dict[str, int]) -> dict[str, int]:
    """A tower's sizes by transformers' names, where they are not its usual ones."""
    return {
        "hidden_size": sizes["width"], "intermediate_size": 4 * sizes["width"], "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"], **({"patch_size": sizes["patch"]} if "patch" in sizes else {}),
    }  # fmt: skip


def resident(peak: bool = False) -> int:
    """Bytes of this process, now or at most since `forget_peak`."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition("VmHWM:" if peak else "VmRSS:")[2].split()[0])


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def measure(arguments: dict[str, str], size: int, steps: int) -> dict[str, int]:
    """Loads and draws, in this process."""
    import tessera
    from tessera.model_parts import shared_parts, tensors_of

    importlib.import_module("tessera.families.versatile.released")
    before = resident()
    forget_peak()
    model = tessera.load(**arguments, device="cpu", flows=["text_to_image"])  # type: ignore[arg-type]
    found = {"before": before, "loading": resident(peak=True), "loaded": resident()}
    forget_peak()

    def after_step(progress: Any) -> None:
        if progress.index == progress.total:
            found["denoising"] = resident(peak=True)
            forget_peak()

    model.text_to_image("a red car in the sun", seed=0, steps=steps, size=(size, size), callback=after_step)
    needed = tensors_of(model.flows, shared_parts(model.flows), used=True)
    return found | {"decoding": resident(peak=True), "weights": sum(tensor.nbytes for tensor in needed.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--only", choices=SOURCES)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(json.loads(given.measure), given.size, given.steps)))
        return
    for source in [given.only] if given.only else SOURCES:
        with tempfile.TemporaryDirectory() as folder:
            arguments = write(source, Path(folder))
            command = [sys.executable, __file__, "--size", str(given.size), "--steps", str(given.steps), "--measure", json.dumps(arguments)]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        gigabytes = {name: round(value / 1e9, 3) for name, value in found.items()}
        peak = max(found["loading"], found["denoising"], found["decoding"])
        whole, beside = peak / found["weights"], (peak - found["before"]) / found["weights"]
        print(
            f"{source}: {gigabytes} GB; peak {whole:.3f} of the weights, {beside:.3f} without the libraries (target {TARGET})", flush=True
        )


if __name__ == "__main__":
    main()
