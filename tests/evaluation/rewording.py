"""Other words for the same facts of a scene."""

import random

from tessera.data.scenes_language import RELATIONS, Caption


def reworded(caption: Caption, seed: int) -> str:
    """The same facts: two things in the other order, a relation by another of its names, or big for large; or the same words."""
    rng, text = random.Random(seed), caption.text
    if not caption.relations and len(caption.mentions) == 2 and "," not in text:
        body = text.removeprefix("a picture of ").removeprefix("there is ")
        things, on, background = body.partition(" on ")
        first, second = things.split(" and ")
        text = f"{second} and {first}{on}{background}"
    for kind, ways in RELATIONS.items():
        for words in sorted(ways, key=len, reverse=True):
            if caption.relations and f" {words} " in text:
                return text.replace(f" {words} ", f" {rng.choice(RELATIONS[kind])} ")
    return text.replace("large", "big")
