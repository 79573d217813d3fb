"""Reads captions of the scenes world, and says whether each of their clauses holds in a scene.

sentence   = [opening] item {separator item} [place] [background] ["."]
opening    = "a picture of" | "there is" | "there are"
item       = phrase [relation phrase]                       single things when related
separator  = "and" | ", and" | ","                          a mere comma not before the last item
phrase     = number [size] colour shape                     of one number
place      = ("in" | "at" | "on") "the" third               of a lone thing
background = "on" "a" colour "background" | "on" colour

Words are those of `scenes_language`, and a few synonyms below. What is no such sentence is not understood, and so never right:
a judge that guessed what was meant would forgive the very mistakes it is there to find.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from tessera.data.scenes import BACKGROUNDS, COLOURS, PICTURE, SHAPES, SIZES, Scene
from tessera.data.scenes_language import INVERSE, NUMBERS, REGIONS, RELATIONS, Caption, Mention, Relation, phrase, region_of, relation_holds
from tessera.evaluation.scenes_judge import SLACK, Found, Reading, Verdict, fits, judge

__all__ = ["CaptionVerdict", "Clause", "clauses_of", "judge_caption", "parse_caption", "reading_of", "same_meaning", "same_wording"]

SYNONYMS = {
    "big": "large", "little": "small", "grey": "gray", "center": "middle", "centre": "middle", "upper": "top", "lower": "bottom",
    "image": "picture", "photo": "picture",
}  # fmt: skip
"""Word → the word of the world's language that means the same."""
MIRRORED = {kind: INVERSE[kind] for kind in ("below", "right")}
"""Relations that are told as those of the exchanged things."""
COUNTS = {word: count for count, word in NUMBERS.items()} | {"an": 1, "one": 1}
PLURALS = {("crosses" if shape == "cross" else shape + "s"): shape for shape in SHAPES}
KINDS = {words: kind for kind, ways in RELATIONS.items() for words in ways}
THIRDS = {words.split(" the ")[1]: region for region, words in REGIONS.items()}


def _any(words: Iterable[str]) -> str:
    """A pattern of any of these, the longest first."""
    return "(?:" + "|".join(sorted(words, key=len, reverse=True)) + ")"


_NAMED = rf"(?P<number>{_any(COUNTS)}) (?:(?P<size>{_any(SIZES)}) )?(?P<colour>{_any(COLOURS)}) (?P<noun>{_any([*SHAPES, *PLURALS])})"
_PHRASE = re.sub(r"\?P<\w+>", "?:", _NAMED)
_ITEM = rf"{_PHRASE}(?: {_any(KINDS)} {_PHRASE})?"
_SENTENCE = re.compile(
    rf"(?:(?P<opening>an? picture of|there is|there are) )?(?P<items>{_ITEM}(?:(?: ,)?(?: and)? {_ITEM})*)"
    rf"(?: (?:in|at|on) the (?P<third>{_any(THIRDS)}))?"
    rf"(?: on (?:a (?P<wide>{_any(BACKGROUNDS)}) background|(?P<bare>{_any(BACKGROUNDS)})))?(?: \.)?"
)
_MENTION = re.compile(rf"(?P<before>.*?){_NAMED}")


@dataclass(frozen=True)
class Clause:
    """A fact that a caption states, equal for all of its wordings.

    mentions: of things of one shape and colour, how many there are of each size; or the two things of `relation`.
    """

    mentions: tuple[Mention, ...] = ()
    relation: str | None = None
    region: tuple[int, int] | None = None
    background: str | None = None

    def __str__(self) -> str:
        if self.background is not None:
            return f"on a {self.background} background"
        if self.region is not None:
            return REGIONS[self.region]
        return f" {self.relation or 'and'} ".join(phrase(mention) for mention in self.mentions)

    def holds(self, reading: Reading, picture: int = PICTURE) -> bool:
        """Of things: there are exactly so many of this shape and colour. `picture`: side in pixels."""
        if self.background is not None:
            return reading.background == self.background
        if self.region is not None:
            return any(region_of(thing.centre, picture) == self.region for thing in reading.things)
        if self.relation is not None:
            return any(
                fits(self.mentions[0], a) and fits(self.mentions[1], b) and relation_holds(self.relation, a.centre, b.centre, SLACK)
                for a, b in permutations(reading.things, 2)
            )
        one = self.mentions[0]
        there = [thing.size for thing in reading.things if (thing.shape, thing.colour) == (one.shape, one.colour)]
        stated = Counter({mention.size: mention.count for mention in self.mentions if mention.size is not None})
        return len(there) == sum(mention.count for mention in self.mentions) and stated <= Counter(there)


@dataclass(frozen=True)
class CaptionVerdict:
    """caption: as it was read; None: not understood. verdict: of the whole caption. clauses: each, and whether it holds by itself."""

    caption: Caption | None
    verdict: Verdict | None = None
    clauses: tuple[tuple[Clause, bool], ...] = ()

    @property
    def right(self) -> bool:
        """Every clause holds, and nothing of the picture is left out."""
        return self.verdict is not None and self.verdict.right

    def as_dict(self) -> dict[str, Any]:
        """JSON values: clauses by their words."""
        clauses = {str(clause): holds for clause, holds in self.clauses}
        return {"right": self.right, "understood": self.caption is not None, "clauses": clauses}


def _words(text: str) -> str:
    """The words and marks of a text in lower case, with one space between them."""
    return " ".join(SYNONYMS.get(word, word) for word in re.findall(r"[a-z]+|[^\sa-z]", text.lower()))


def parse_caption(text: str) -> Caption | None:
    """The facts that a caption states; None when it is no sentence of the language."""
    sentence = _SENTENCE.fullmatch(_words(text))
    if sentence is None:
        return None
    mentions: list[Mention] = []
    relations: list[Relation] = []
    separators: list[str] = []
    for number, found in enumerate(_MENTION.finditer(sentence["items"])):
        count, noun, before = COUNTS[found["number"]], found["noun"], found["before"].strip()
        mentions.append(Mention(PLURALS.get(noun, noun), found["colour"], found["size"], count))
        vowel = (found["size"] or found["colour"])[0] in "aeiou"
        if (noun in PLURALS) != (count > 1) or found["number"] == ("a" if vowel else "an"):
            return None  # number and noun disagree, or the article is another
        if before not in KINDS:
            separators.append(before)
        elif count > 1 or mentions[-2].count > 1:
            return None  # of which of them?
        else:
            relations.append(Relation(number - 1, KINDS[before], number))
    total = sum(mention.count for mention in mentions)
    agrees = {"there is": mentions[0].count == 1, "there are": total > 1}.get(sentence["opening"], True)
    if not agrees or (sentence["third"] is not None and total > 1) or "" in separators[1:] or separators[-1] == ",":
        return None
    region = None if sentence["third"] is None else THIRDS[sentence["third"]]
    return Caption(text, tuple(mentions), tuple(relations), region, sentence["wide"] or sentence["bare"])


def clauses_of(caption: Caption) -> tuple[Clause, ...]:
    """Every fact once, in the order of the caption."""
    kinds = dict.fromkeys((mention.shape, mention.colour) for mention in caption.mentions)
    found = []
    for shape, colour in kinds:
        sizes: Counter[str | None] = Counter()
        for mention in caption.mentions:
            if (mention.shape, mention.colour) == (shape, colour):
                sizes[mention.size] += mention.count
        found.append(Clause(tuple(Mention(shape, colour, size, sizes[size]) for size in (*SIZES, None) if sizes[size])))
    for relation in caption.relations:
        ends = caption.mentions[relation.first], caption.mentions[relation.second]
        mirrored = relation.kind in MIRRORED
        found.append(Clause(ends[::-1] if mirrored else ends, MIRRORED.get(relation.kind, relation.kind)))
    if caption.region is not None:
        found.append(Clause(region=caption.region))
    if caption.background is not None:
        found.append(Clause(background=caption.background))
    return tuple(dict.fromkeys(found))


def reading_of(scene: Scene) -> Reading:
    """What its picture shows."""
    return Reading(scene.background, tuple(Found(thing.shape, thing.colour, thing.size, thing.centre) for thing in scene.things), True)


def judge_caption(text: str, shown: Scene | Reading, picture: int = PICTURE) -> CaptionVerdict:
    """Whether a caption is true of a scene, or of what was read off a picture of side `picture`, and says all that is there."""
    caption = parse_caption(text)
    if caption is None:
        return CaptionVerdict(None)
    reading = reading_of(shown) if isinstance(shown, Scene) else shown
    clauses = tuple((clause, clause.holds(reading, picture)) for clause in clauses_of(caption))
    return CaptionVerdict(caption, judge(reading, caption, picture), clauses)


def same_meaning(first: str, second: str) -> bool:
    """Whether two captions are understood and state the same facts, in whatever words and order."""
    one, other = parse_caption(first), parse_caption(second)
    return one is not None and other is not None and set(clauses_of(one)) == set(clauses_of(other))


def same_wording(first: str, second: str) -> bool:
    """Whether two texts are the same words and marks, whatever their case and spacing."""
    return re.findall(r"\w+|[^\s\w]", first.lower()) == re.findall(r"\w+|[^\s\w]", second.lower())
