"""Published ways to draw, each a composition of settings: the inference methods of VQ-Diffusion, and the programs of v-diffusion-pytorch.

| name | paper | network evaluations at T = 100, 1024 tokens |
|---|---|---|
| base | Gu et al. 2022, arXiv 2111.14822: one step per time, truncation 0.86 | 100 |
| guidance | Tang et al. 2022, arXiv 2205.16007: classifier-free guidance 5 | 100, each of twice the batch |
| high-quality | Tang et al.: half as many tokens per pass | 199 |
| fast | released code: every second time; `Ancestral` with 50 steps costs the same and is exact | 51 |
| purity | Tang et al.: purity prior with weight 1 | 100 |
| guidance-fast | released code: guidance 5 and every second time | 51, each of twice the batch |

Guidance leads away from the model's null prompt: the learned one if the model has it, otherwise the empty prompt (zero-shot). With
guidance the originals truncate at 1.0, which drops only classes that together weigh less than a float32 rounding; here that is no
truncation.

| name | program of v-diffusion-pytorch | network evaluations |
|---|---|---|
| clip-sample | clip_sample.py: DDPM, led by CLIP guidance 500 through 16 cutouts; prompts of weight 1 | 1000 |
| cfg-sample | cfg_sample.py: PLMS, classifier-free guidance; prompts of weight 3 | 59, each of the batch for every prompt and for none |

The programs draw one picture of all their prompts, and start from a picture at the time 0.9, as `own_strength` of models of floats is.
"""

from collections.abc import Mapping
from types import MappingProxyType

from tessera.contexts.weighted_prompts import CFG_WEIGHT
from tessera.errors import UsageError, suggest
from tessera.flow import SamplingSettings

__all__ = ["METHODS", "VQ_DIFFUSION", "V_DIFFUSION", "method"]

VQ_DIFFUSION: Mapping[str, SamplingSettings] = MappingProxyType(
    {
        "base": SamplingSettings(truncation=0.86),
        "guidance": SamplingSettings(guidance=5.0),
        "high-quality": SamplingSettings("high-quality", truncation=0.86),
        "fast": SamplingSettings("skipping:speed=2", truncation=0.86),
        "purity": SamplingSettings("purity", truncation=0.86),
        "guidance-fast": SamplingSettings("skipping:speed=2", guidance=5.0),
    }
)

V_DIFFUSION: Mapping[str, SamplingSettings] = MappingProxyType(
    {
        "clip-sample": SamplingSettings("ddpm", steps=1000, clip_guidance=500.0, cutouts=16, cut_power=1.0),
        "cfg-sample": SamplingSettings("plms", steps=50, guidance=CFG_WEIGHT),
    }
)
"""With these, several prompts are the parts of one."""
METHODS: Mapping[str, SamplingSettings] = MappingProxyType({**VQ_DIFFUSION, **V_DIFFUSION})


def method(name: str) -> SamplingSettings:
    """The settings of a method; UsageError names the nearest one for an unknown name."""
    if name not in METHODS:
        raise UsageError(suggest("method", name, METHODS))
    return METHODS[name]
