import json
import subprocess
import sys

import pytest
import torch

from tessera.contexts.clip import CLIPText
from tessera.contexts.context import Context
from tessera.contexts.prompt_warnings import PromptTruncated
from tessera.errors import TesseraError, UsageError
from tessera.registry import CONTEXTS, build

MERGES = ["r e", "re d</w>", "c a", "ca t</w>"]
VOCABULARY = 512 + len(MERGES) + 2


def clip(seed: int = 0, **changes) -> CLIPText:
    torch.manual_seed(seed)
    return CLIPText(**{"merges": MERGES, "length": 9, "layers": 2, "width": 32, "heads": 2, "vocabulary": VOCABULARY, **changes})


def test_every_token_has_an_embedding_of_unit_length():
    context = clip()(["a red cat", "", "cat"])
    assert context.embeddings.shape == (3, 9, 32)
    assert context.mask is None
    torch.testing.assert_close(context.embeddings.norm(dim=-1), torch.ones(3, 9))


def test_attention_is_causal():
    a, b = clip()(["red cat", "red red"]).embeddings
    torch.testing.assert_close(a[:2], b[:2])
    assert (a[2:] - b[2:]).abs().max() > 1e-3


def test_frozen_tower_stays_in_evaluation_mode_and_has_no_gradient():
    encoder = clip(null=True).train()
    assert not encoder.tower.training
    assert {name for name, p in encoder.named_parameters() if p.requires_grad} == {"null_embedding"}
    assert not clip()(["cat"]).embeddings.requires_grad


def test_unfrozen_tower_learns():
    encoder = clip(frozen=False).train()
    encoder(["red cat"]).embeddings[..., 0].sum().backward()
    assert encoder.tower.embeddings.token_embedding.weight.grad.abs().sum() > 0


def test_null_prompt():
    learned = clip(null=True)
    assert learned.null_embedding.shape == (9, 32)
    assert torch.equal(learned.unconditional(2).embeddings, learned.null_embedding.expand(2, -1, -1))
    context = learned(["cat", None])
    assert torch.equal(context.embeddings[1], learned.null_embedding)
    assert torch.equal(context.embeddings[0], learned(["cat", ""]).embeddings[0])
    context.embeddings.sum().backward()
    assert torch.equal(learned.null_embedding.grad, torch.ones(9, 32))
    zero_shot = clip()
    torch.testing.assert_close(zero_shot.unconditional(2).embeddings, zero_shot(["", None]).embeddings)
    assert len(Context.cat([learned(["cat"]), learned.unconditional(1)]).embeddings) == 2


def test_too_long_prompt_warns():
    with pytest.warns(PromptTruncated, match="'cat cat'"):
        clip()(["red red red red red red red cat cat"])


def test_saved_and_loaded_model_has_its_tokenizer(tmp_path):
    encoder = clip(null=True)
    config = json.loads(json.dumps(encoder.config))
    twin = build("context encoder", CONTEXTS, config)
    twin.load_state_dict(encoder.state_dict())
    with pytest.raises(UsageError, match="no tokenizer"):
        twin(["cat"])
    assert twin.extra_files() == {}
    for name, content in encoder.extra_files().items():
        (tmp_path / name).write_bytes(content)
    twin.load_extra_files(tmp_path)
    assert twin.config == encoder.config
    assert torch.equal(twin(["a red cat", None]).embeddings, encoder(["a red cat", None]).embeddings)


@pytest.mark.parametrize("whole", [False, True])
def test_pretrained_weights_decide_the_size_and_bring_their_merges(tmp_path, whole):
    from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig

    tower = clip().tower
    if whole:
        vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=32)
        model = CLIPModel(CLIPConfig(text_config=tower.config.to_dict(), vision_config=vision.to_dict(), projection_dim=8))
        getattr(model.text_model, "text_model", model.text_model).load_state_dict(tower.state_dict())
    else:
        model = tower
    model.save_pretrained(tmp_path)
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]))
    encoder = CLIPText(pretrained=str(tmp_path))
    assert encoder.config == clip().config
    assert torch.equal(encoder(["a red cat"]).embeddings, clip()(["a red cat"]).embeddings)


def test_wrong_arguments(tmp_path):
    with pytest.raises(UsageError, match="515 tokens, but the tower has 518"):
        clip(merges=MERGES[:1])
    with pytest.raises(UsageError, match="multiple of heads"):
        clip(heads=3)
    with pytest.raises(UsageError, match="cannot read"):
        clip(merges=str(tmp_path / "absent.txt"))
    with pytest.raises(TesseraError, match="CLIP weights"):
        CLIPText(pretrained=str(tmp_path))


def test_module_loads_without_transformers():
    code = "import sys, tessera.contexts.clip, tessera.contexts.words; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
