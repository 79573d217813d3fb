"""CLIP with both towers, from its own description, from a folder in transformers' layout and from files in OpenAI's layout."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tessera.contexts.clip_joint import JointCLIP, load_clip
from tessera.contexts.joint import standardise
from tessera.errors import TesseraError, UsageError
from tessera.registry import CONTEXTS, build

MERGES = ["r e", "re d</w>", "c a", "ca t</w>"]
VOCABULARY = 512 + len(MERGES) + 2
TEXT = {"length": 9, "layers": 2, "width": 64, "heads": 1, "vocabulary": VOCABULARY}
IMAGE = {"size": 12, "patch": 4, "layers": 2, "width": 128, "heads": 2}


def clip(merges: list[str] | None = MERGES, **changes) -> JointCLIP:
    torch.manual_seed(0)
    encoder = JointCLIP(**{"text": TEXT, "image": IMAGE, "width": 16, "merges": merges, **changes})
    for name, value in encoder.clip.named_parameters():  # gains and biases that matter
        value.data += torch.randn_like(value) * (0.1 if name != "logit_scale" else 0)
    return encoder.eval()


def in_transformers(encoder: JointCLIP) -> Any:
    """transformers' own model of the same weights."""
    from transformers import CLIPConfig, CLIPModel

    towers = {}
    for name, sizes in (("text_config", encoder.config["text"]), ("vision_config", encoder.config["image"])):
        towers[name] = {
            "hidden_size": sizes["width"], "intermediate_size": 4 * sizes["width"], "num_hidden_layers": sizes["layers"],
            "num_attention_heads": sizes["heads"], "hidden_act": encoder.config["activation"],
        }  # fmt: skip
    text, image = encoder.config["text"], encoder.config["image"]
    towers["text_config"] |= {"vocab_size": text["vocabulary"], "max_position_embeddings": text["length"]}
    towers["text_config"] |= {"bos_token_id": text["vocabulary"] - 2, "eos_token_id": text["vocabulary"] - 1}
    towers["vision_config"] |= {"image_size": image["size"], "patch_size": image["patch"]}
    model = CLIPModel(CLIPConfig(**towers, projection_dim=encoder.config["width"])).eval()
    model.load_state_dict(encoder.clip.state_dict())
    return model


def openai_state(encoder: JointCLIP) -> dict[str, torch.Tensor]:
    """The same tensors as OpenAI's files have them."""
    ours, state = encoder.clip.state_dict(), {}
    for tower, outer in (("text_model", ""), ("vision_model", "visual.")):
        for i in range(2):
            there, here = f"{outer}transformer.resblocks.{i}.", f"{tower}.encoder.layers.{i}."
            for kind in ("weight", "bias"):
                state[f"{there}attn.in_proj_{kind}"] = torch.cat([ours[f"{here}self_attn.{x}_proj.{kind}"] for x in "qkv"])
                for a, b in (("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
                             ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")):  # fmt: skip
                    state[f"{there}{a}.{kind}"] = ours[f"{here}{b}.{kind}"]
    for kind in ("weight", "bias"):
        state[f"ln_final.{kind}"] = ours[f"text_model.final_layer_norm.{kind}"]
        state[f"visual.ln_pre.{kind}"] = ours[f"vision_model.pre_layrnorm.{kind}"]
        state[f"visual.ln_post.{kind}"] = ours[f"vision_model.post_layernorm.{kind}"]
    return state | {
        "token_embedding.weight": ours["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": ours["text_model.embeddings.position_embedding.weight"],
        "text_projection": ours["text_projection.weight"].T.contiguous(),
        "visual.class_embedding": ours["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": ours["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": ours["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": ours["visual_projection.weight"].T.contiguous(),
        "logit_scale": ours["logit_scale"],
    }


def openai_forward(state: dict[str, torch.Tensor], image: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What OpenAI's model computes, from its paper's figure and the names of its tensors, independently of transformers."""

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def blocks(x, prefix, heads, causal):
        for i in range(2):
            at = f"{prefix}transformer.resblocks.{i}."
            attention = nn.MultiheadAttention(x.shape[-1], heads, batch_first=True)
            attention.load_state_dict({name: state[at + "attn." + name] for name in attention.state_dict()})
            mask = torch.full((x.shape[1],) * 2, -torch.inf).triu(1) if causal else None
            h = norm(x, at + "ln_1")
            x = x + attention(h, h, h, need_weights=False, attn_mask=mask)[0]
            h = F.linear(norm(x, at + "ln_2"), state[at + "mlp.c_fc.weight"], state[at + "mlp.c_fc.bias"])
            x = x + F.linear(h * torch.sigmoid(1.702 * h), state[at + "mlp.c_proj.weight"], state[at + "mlp.c_proj.bias"])
        return x

    patches = F.conv2d(image, state["visual.conv1.weight"], stride=4).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(len(image), 1, -1), patches], 1) + state["visual.positional_embedding"]
    x = blocks(norm(x, "visual.ln_pre"), "visual.", 2, causal=False)
    seen = norm(x[:, 0], "visual.ln_post") @ state["visual.proj"]
    y = blocks(state["token_embedding.weight"][tokens] + state["positional_embedding"], "", 1, causal=True)
    read = norm(y, "ln_final")[torch.arange(len(tokens)), tokens.argmax(-1)] @ state["text_projection"]
    return seen, read


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("scripted", [False, True])
def test_openai_s_file_computes_what_openai_s_model_does(tmp_path, half, scripted):
    state = {name: value.half().float() if half else value for name, value in openai_state(clip()).items()}
    stored = {name: value.half() if half else value for name, value in state.items()}
    if scripted:
        torch.jit.save(torch.jit.script(_module(stored)), tmp_path / "clip.pt")
    else:
        torch.save({**stored, "input_resolution": 12, "context_length": 9, "vocab_size": VOCABULARY}, tmp_path / "clip.pt")
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]))
    encoder = load_clip(tmp_path / "clip.pt", tmp_path / "merges.txt")
    assert encoder.config == clip().config
    texts, image = ["a red cat", ""], torch.rand(2, 3, 12, 12) * 2 - 1
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))
    seen, read = openai_forward(state, ((image + 1) / 2 - mean) / std, encoder.tokenizer(texts)[0])
    torch.testing.assert_close(encoder.encode_image(image), seen, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder.encode_text(texts), read, atol=1e-5, rtol=1e-4)


def _module(state: dict[str, torch.Tensor]) -> nn.Module:
    """Nested modules whose attributes have these names."""
    root = nn.Module()
    for name, value in state.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if part not in dict(place.named_children()):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.register_parameter(last, nn.Parameter(value, requires_grad=False))
    return root


@pytest.mark.parametrize("layout", ["whole", "shards", "pickled"])
def test_a_folder_in_transformers_layout_computes_what_transformers_does(tmp_path: Path, layout: str) -> None:
    made = clip(activation="gelu" if layout == "shards" else "quick_gelu")
    theirs = in_transformers(made)
    theirs.save_pretrained(tmp_path, **({"max_shard_size": "300KB"} if layout == "shards" else {}))
    if layout == "shards":
        assert (tmp_path / "model.safetensors.index.json").is_file()
    if layout == "pickled":
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]))
    encoder = load_clip(str(tmp_path))
    assert encoder.config == made.config
    texts, image = ["a red cat", ""], torch.rand(2, 3, 12, 12) * 2 - 1
    with torch.no_grad():
        seen = theirs.get_image_features(pixel_values=standardise(image))
        read = theirs.get_text_features(input_ids=encoder.tokenize(texts))
    torch.testing.assert_close(encoder.encode_image(image), seen.pooler_output, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(encoder.encode_text(texts), read.pooler_output, atol=1e-6, rtol=1e-5)


def test_only_pixels_have_a_gradient():
    encoder, image = clip().train(), torch.zeros(2, 3, 12, 12, requires_grad=True)
    assert not encoder.clip.training
    encoder.encode_image(image).square().sum().backward()
    assert image.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder.encode_text(["cat"]).requires_grad


def test_saved_and_loaded_it_has_its_tokenizer(tmp_path):
    encoder = clip()
    twin = build("context encoder", CONTEXTS, json.loads(json.dumps(encoder.config)))
    twin.load_state_dict(encoder.state_dict())
    with pytest.raises(UsageError, match="no tokenizer"):
        twin.encode_text(["cat"])
    assert twin.extra_files() == {}
    for name, content in encoder.extra_files().items():
        (tmp_path / name).write_bytes(content)
    twin.load_extra_files(tmp_path)
    assert torch.equal(twin(["a red cat", None]).embeddings, encoder(["a red cat", None]).embeddings)


def test_what_is_no_clip(tmp_path):
    with pytest.raises(UsageError, match="is no CLIP with text and image tower"):
        load_clip(str(tmp_path))
    state = openai_state(clip())
    cases = {
        "other.pt": ({"weight": torch.zeros(2)}, UsageError, "holds no CLIP"),
        "resnet.pt": ({name: value for name, value in state.items() if name != "visual.proj"}, UsageError, "ResNet"),
        "cut.pt": ({name: value for name, value in state.items() if name != "ln_final.bias"}, TesseraError, "'ln_final.bias' is missing"),
        "odd.pt": (state | {"visual.ln_pre.bias": torch.zeros(3)}, TesseraError, r"'visual\.ln_pre\.bias' has shape \[3\]"),
        "square.pt": (state | {"visual.positional_embedding": torch.zeros(9, 128)}, TesseraError, "not 1 and a square"),
    }
    for name, (stored, kind, message) in cases.items():
        torch.save(stored, tmp_path / name)
        with pytest.raises(kind, match=message):
            load_clip(tmp_path / name)


def test_a_folder_that_lacks_something_is_not_filled_up_with_random_numbers(tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import CLIPTextModelWithProjection

    whole, half = tmp_path / "whole", tmp_path / "half"
    CLIPTextModelWithProjection(in_transformers(clip()).config.text_config).save_pretrained(half)
    with pytest.raises(UsageError, match=r"is no CLIP with text and image tower.* it is 'clip_text_model'"):
        load_clip(str(half))
    in_transformers(clip()).save_pretrained(whole)
    weights = load_file(whole / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, whole / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"visual_projection\.weight is missing"):
        load_clip(str(whole))
    config = json.loads((whole / "config.json").read_text())
    for change, message in (
        ({"projection_dim": 17}, "text_projection.weight has shape|visual_projection"),
        ({"text_config": config["text_config"] | {"hidden_act": "relu9"}}, "relu9"),
    ):
        (whole / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UsageError, match=message):
            load_clip(str(whole))
    (whole / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_clip(str(whole))


def test_it_needs_no_transformers() -> None:
    code = f"import sys; from tessera.contexts.clip_joint import JointCLIP; JointCLIP({TEXT}, {IMAGE}, 16)"
    code += "; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_wrong_arguments(tmp_path):
    with pytest.raises(UsageError, match="515 tokens, but the text tower has 518"):
        clip(merges=MERGES[:1])
    with pytest.raises(UsageError, match="multiple of its heads"):
        clip(text=TEXT | {"heads": 3})
    with pytest.raises(UsageError, match="multiple of its patches"):
        clip(image=IMAGE | {"patch": 5})
    with pytest.raises(UsageError, match="pictures of 12x12, not 16x12"):
        clip().encode_image(torch.zeros(1, 3, 12, 16))
