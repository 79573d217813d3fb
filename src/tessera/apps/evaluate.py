"""`tessera evaluate`: how good a model is, in numbers."""

import typer

from tessera.apps.caption_check import caption
from tessera.apps.distances import compare, fid, kid, prdc, statistics
from tessera.apps.flow_measures import versatile
from tessera.apps.judgements import clip_score, neighbours, reconstruction
from tessera.apps.likelihood import likelihood
from tessera.apps.scene_measures import scenes

__all__ = ["evaluate"]

evaluate = typer.Typer(no_args_is_help=True, help="Measures a model.")
for verb in (fid, kid, prdc, neighbours, reconstruction, statistics, compare, likelihood, scenes, versatile, caption):
    evaluate.command()(verb)
evaluate.command("clip-score")(clip_score)


@evaluate.callback()
def _group() -> None:
    """Measures a model."""
