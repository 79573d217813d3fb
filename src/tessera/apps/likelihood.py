"""`tessera evaluate likelihood`: how probable a model of tokens finds pictures."""

from typing import TYPE_CHECKING, Annotated

import typer

import tessera
from tessera.apps.measuring import DEFAULT, SETS, Count, Output, SetOptions, finish, progress_of
from tessera.apps.option_lists import takes
from tessera.errors import UsageError

if TYPE_CHECKING:
    from tessera.evaluation.likelihood import Likelihood

__all__ = ["likelihood"]


@takes(SetOptions, batch_size=16)
def likelihood(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundled model, a model folder or a released file.")],
    pictures: Annotated[str, typer.Argument(help=f"Held-out pictures: {SETS}.")],
    count: Count = None,
    times: Annotated[int | None, typer.Option(help="Times at which a mask is drawn; all of the process unless given.")] = None,
    bits: Annotated[int, typer.Option(help="Of a value of a picture: 8, as in files; 5 is how Unleashing Transformers counts.")] = 8,
    seed: Annotated[int, typer.Option(help="Fixes the masks.")] = 0,
    output: Output = None,
    *,
    options: SetOptions,
) -> None:
    """A bound on -log p of pictures given their captions or classes, if the model takes any: in bits per token, and in bits per dimension.

    Bits per dimension need a codec with a head for likelihoods.
    """
    from tessera.contexts.labels import check_classes
    from tessera.evaluation.likelihood import evaluate_likelihood
    from tessera.evaluation.reports import Report
    from tessera.flow import TokenFlow
    from tessera.model import whole_number

    for what, value, least in (("batch_size", options.batch_size, 1), ("bits", bits, 1), ("seed", seed, 0), ("count", count or 1, 1)):
        whole_number(what, value, least)
    loaded = options.load(model, options.device)
    flow = loaded.flows.get("text_to_image")
    if not isinstance(flow, TokenFlow):
        raise UsageError(f"the likelihood is that of models of tokens, and {loaded.name!r} is none")
    measured = options.named.pictures(pictures)
    check_classes(flow.context_encoder, getattr(measured, "dataset", None), measured.name)
    wanted = count or (DEFAULT if measured.count is None else None)
    with progress_of(measured, wanted) as step:
        batches = ((batch.image.float() / 127.5 - 1, batch.prompts) for batch in measured.batches(wanted, options.batch_size))
        found = evaluate_likelihood(flow, batches, seed=seed, times=times, bits=bits, progress=step)
    recipe = {"model": loaded.name, "weights": loaded.weights, "bits": bits, "times": found.times, "seed": seed, "pictures": found.pictures}
    values = {"bits_per_token": found.bits_per_token, "bits_per_token_error": found.bits_per_token_error, "last": found.last}
    if found.bits_per_dimension is not None and found.bits_per_dimension_error is not None and found.decoder is not None:
        values |= {"bits_per_dimension": found.bits_per_dimension, "bits_per_dimension_error": found.bits_per_dimension_error}
        values |= {"decoder": found.decoder}
    report = Report("likelihood", values, recipe, measured.account, tessera.__version__)
    finish(report, _sentence(found, measured.name), output, options.as_json)


def _sentence(found: "Likelihood", name: str) -> str:
    tokens = f"at most {found.bits_per_token:.4f} ± {found.bits_per_token_error:.4f} bits per token"
    of = f"({found.pictures} pictures of {name}, a mask at each of {found.times} times)"
    if found.last:
        of += f", without the {found.last:.1g} of the last time"
    if found.bits_per_dimension is None:
        return f"{tokens} {of}; bits per dimension need a codec with a head for likelihoods: train one with train=log-sigma"
    return (
        f"at most {found.bits_per_dimension:.4f} ± {found.bits_per_dimension_error:.4f} bits per dimension of {found.bits}-bit values, "
        f"{found.decoder:.4f} of them the decoder's; {tokens} {of}"
    )
