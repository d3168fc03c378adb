"""A CLIP tokenizer whose words are those of the captions at hand."""

from collections.abc import Iterable
from typing import Any

START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(captions: Iterable[str], vocabulary: int, max_tokens: int) -> Any:
    """A `transformers.CLIPTokenizer` of byte-level BPE, with merges learned from the captions.

    Every byte has a token, alone and at a word's end, so that a class name never seen still has a spelling.

    Args:
        captions: texts to learn merges from.
        vocabulary: upper bound of the number of tokens; 514 stand for bytes and marks.
        max_tokens: length that captions are cut and padded to.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # CLIP's own normaliser and word pattern, so that merges are learned on what the tokenizer will see.
    blank = CLIPTokenizer(vocab={START: 0, END: 1}, merges=[])
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = blank.backend_tokenizer.normalizer
    learner.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 2,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        min_frequency=2,
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)
    merges = [tuple(pair) for pair in _merges(learner)]
    words = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges), START, END]
    vocab = {word: index for index, word in enumerate(dict.fromkeys(words))}
    listed: Any = merges  # typed as texts, taken as pairs
    return CLIPTokenizer(vocab=vocab, merges=listed, model_max_length=max_tokens)


def _merges(tokenizer: Any) -> list[Any]:
    import json

    pairs = json.loads(tokenizer.to_str())["model"]["merges"]
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in pairs]
