from terradistill.data.aggregation import medoid_caption, telling_phrases, within

HARBOUR = ["many boats in a harbour", "a harbour with many boats", "boats in a harbour", "a red house"]
FIELDS = ["green fields beside a road", "a road between green fields"]


def test_the_medoid_caption_is_the_one_most_like_the_others() -> None:
    assert medoid_caption(HARBOUR) in HARBOUR[:3]
    assert medoid_caption(["one", "one", "two"]) == "one"
    assert medoid_caption(["…"]) == "…"


def test_phrases_tell_a_group_from_the_others() -> None:
    harbour, fields, empty = telling_phrases([HARBOUR, FIELDS, []])
    assert any("harbour" in phrase for phrase in harbour)
    assert any("green fields" in phrase for phrase in fields)
    assert not set(harbour) & set(fields)
    assert empty == []
    assert telling_phrases([["x"], []]) == [[], []]


def test_no_phrase_runs_from_one_caption_into_the_next() -> None:
    (phrases,) = telling_phrases([["many green trees"] * 3])
    assert phrases
    assert all(phrase in "many green trees" for phrase in phrases)


def test_no_phrase_repeats_what_was_said() -> None:
    (phrases,) = telling_phrases([["red house", "red house", "the red house"]])
    assert phrases == ["red house"]


def test_a_prompt_ends_before_the_window_does_and_cuts_no_word() -> None:
    words = lambda text: len(text.replace(",", " ,").split())  # noqa: E731
    phrases = ["many boats", "a very long jetty of stone", "clear water"]
    assert within("an image of harbour", phrases, words, 10) == "an image of harbour, many boats, clear water"
    assert within("an image of harbour", phrases, words, 4) == "an image of harbour"
    assert within("an image of harbour", phrases, words, 99).endswith("clear water")
