"""What is known of each thing that a flow made, and the numbers of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tessera.evaluation.bleu import bleu
from tessera.evaluation.scenes_captions import same_wording
from tessera.evaluation.scenes_flows import FLOW_MEASURES
from tessera.evaluation.shares import share

__all__ = ["Row", "measures"]


@dataclass
class Row:
    """words: of the pair it was made of. text: what was written, if words were. cosine: of CLIP's embeddings. verdict: of the judge of the
    scenes world."""

    words: str
    text: str | None = None
    cosine: float | None = None
    verdict: Any = None


def measures(flow: str, rows: Sequence[Row]) -> dict[str, float | None]:
    """The numbers of a flow, by name, but for FID; None where there was nothing to judge."""
    found: dict[str, float | None] = {}
    written = [(row.words, row.text) for row in rows if row.text is not None]
    if written:
        found["bleu"] = bleu([text for _, text in written], [[words] for words, _ in written])
    if flow == "text_to_text":
        found["differs"] = share([not same_wording(words, text) for words, text in written])
    cosines = [row.cosine for row in rows if row.cosine is not None]
    if cosines and flow == "image_to_image":
        found["clip_similarity"] = 100 * share(cosines)
    elif cosines:
        found["clip_score"] = 100 * share([max(cosine, 0.0) for cosine in cosines])
    verdicts = [row.verdict for row in rows if row.verdict is not None]
    if verdicts:
        shares = FLOW_MEASURES[flow].summarise(verdicts).as_dict()
        found |= {name: value for name, value in shares.items() if name != "count"}
    return found
