"""One prompt for many scenes: what the captions of a cluster have in common, and others do not say."""

import re
from collections.abc import Callable, Sequence

import numpy as np

_WORDS = r"(?u)\b[^\W_]+\b"
_EMPTY = frozenset(  # words that say nothing of a scene
    "a an and are as at by for from has have here in into is it its many near next of on or over some side sides "  # noqa: SIM905
    "that the there this to two three with".split()
)
_MOST_PHRASES = 24  # candidates for a prompt; far more than any text encoder's window holds


def medoid_caption(captions: Sequence[str]) -> str:
    """The caption that is most like all of them, by the cosine of TF-IDF weights; the first among equals.

    Args:
        captions: at least one.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    distinct, counts = np.unique(np.array(captions), return_counts=True)
    try:
        weights = TfidfVectorizer(token_pattern=_WORDS, ngram_range=(1, 2)).fit_transform(distinct)
    except ValueError:  # no words at all
        return str(distinct[counts.argmax()])
    likeness = weights @ (weights.T @ counts)
    return str(distinct[int(likeness.argmax())])


def telling_phrases(groups: Sequence[Sequence[str]]) -> list[list[str]]:
    """For each group of captions, its phrases of two or three words by TF-IDF among the groups, the best first.

    Args:
        groups: captions by cluster; a group may be empty.

    Returns:
        One list a group; no phrase in it says only what those before it said.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = re.compile(_WORDS)

    def phrases_of(group: Sequence[str]) -> list[str]:
        told = [words.findall(caption.lower()) for caption in group]
        return [" ".join(said[i : i + n]) for said in told for n in (2, 3) for i in range(len(said) - n + 1)]

    vectorizer = TfidfVectorizer(analyzer=phrases_of, sublinear_tf=True)
    try:
        weights = vectorizer.fit_transform(groups)
    except ValueError:  # no phrase anywhere
        return [[] for _ in groups]
    names = vectorizer.get_feature_names_out()
    chosen = []
    for number in range(len(groups)):
        row = weights[[number]]
        said: set[str] = set()
        phrases: list[str] = []
        for place in np.lexsort((row.indices, -row.data)):
            phrase = str(names[row.indices[place]])
            told = set(phrase.split()) - _EMPTY
            if told - said and len(phrases) < _MOST_PHRASES:
                phrases.append(phrase)
                said |= told
        chosen.append(phrases)
    return chosen


def within(start: str, phrases: Sequence[str], length: Callable[[str], int], most: int) -> str:
    """`start` and as many of the phrases as fit, whole, in this order, separated by commas.

    Args:
        start: what the prompt begins with, whatever its length.
        phrases: additions, the most important first; those that do not fit are passed over.
        length: how long a text is, in tokens.
        most: the window, in tokens.
    """
    prompt = start
    for phrase in phrases:
        longer = f"{prompt}, {phrase}"
        if length(longer) <= most:
            prompt = longer
    return prompt
