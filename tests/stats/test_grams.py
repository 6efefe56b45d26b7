"""Phrases in texts: the vectors of the specification, and the traps that published code fell into."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.stats.grams import Grams, document_frequency, gram_of, ngrams, top_labels, words_of

THREE = ("wait, but", "let's try a different approach", "let me")


def inside(text: str, *phrases: str) -> list[str]:
    return [text[start:end] for start, end in Grams(map(gram_of, phrases)).spans(text)]


def test_word_apostrophes_and_case() -> None:
    assert [w.text for w in words_of("Let\u2019s TRY 'this' x_2, don\u02bct")] == [
        "let's",
        "try",
        "this",
        "x",
        "2",
        "don't",
    ]
    with pytest.raises(ValueError, match="has no word"):
        gram_of("?!")


@pytest.mark.parametrize(
    "text",
    ["so let's try", "So, let\u2019s try", 'so "Let\u2019s  try', "so let's\ntry", "SO LET'S-TRY"],
)
def test_apostrophes_punctuation_and_blanks_do_not_matter(text: str) -> None:
    assert len(inside(text, "let's try")) == 1
    assert len(inside(text, ", so let's try")) == 1


@pytest.mark.parametrize(
    "text",
    ["let's. try", "let's! Try", "let's\n\ntry", "let's try3", "let's           try", "lets try"],
)
def test_what_is_no_phrase(text: str) -> None:
    assert inside(text, "let's try") == []


def test_only_whole_words() -> None:
    assert inside("letter me, outlet me", "let me") == []


def test_overlapping_phrases_are_one_span_and_nothing_before_or_after_is_marked() -> None:
    text = "yes we let me try this again now"
    assert inside(text, "let me try", "try this again", "me try") == ["let me try this again"]


def test_phrases_side_by_side_stay_two() -> None:
    assert inside("let me wait but", "let me", "wait but") == ["let me", "wait but"]


def test_occurrences_are_the_longest_and_do_not_overlap() -> None:
    grams = Grams(map(gram_of, ("let me", "let me try", "try it")))
    found = grams.occurrences("Let me try it. Let me see 4 now", following=2)
    assert [(o.gram, o.following) for o in found] == [
        (("let", "me", "try"), ("it", "let")),
        (("let", "me"), ("see", "4")),
    ]


def test_ngrams_have_letters_in_every_word_and_stay_in_a_sentence() -> None:
    counts = ngrams("We add three. We add 3 now, we add three", least=2, most=3)
    assert counts == {
        ("we", "add"): 3,
        ("add", "three"): 2,
        ("we", "add", "three"): 2,
        ("now", "we"): 1,
        ("now", "we", "add"): 1,
    }


def test_vector_9_3_cluster_document_frequency() -> None:
    # {A,B,C},{A,C},{A,B,D},{A,E},{A,C}: A 5, C 3, B 2, D 1, E 1; the top fifth of five clusters is one of them.
    documents = ["ABC", "AC", "ABD", "AE", "AC"]
    frequency = document_frequency(documents)
    assert frequency == {"A": 5, "B": 2, "C": 3, "D": 1, "E": 1}
    assert top_labels(frequency, share=0.2) == ["A"]
    # numpy's .8 quantile of (1, 1, 2, 3, 5) is 3 + .2 * 2 = 3.4, and A alone reaches it
    assert top_labels(frequency, share=0.2, by="quantile") == ["A"]


def test_the_two_conventions_differ_on_equals() -> None:
    frequency = document_frequency(["AB", "AB", "C", "D", "E"])
    assert top_labels(frequency, share=0.2) == ["A"]
    assert top_labels(frequency, share=0.2, by="quantile") == ["A", "B"]
    assert top_labels({}, share=0.2) == top_labels({}, share=0.2, by="quantile") == []
    with pytest.raises(ValueError, match="share is 0"):
        top_labels(frequency, share=0)


@given(
    st.lists(st.sampled_from(["a", "b", "c", "."]), max_size=12), st.sets(st.sampled_from(["a b", "b", "a b c", "c a"]))
)
def test_spans_are_those_of_a_plain_search(words: list[str], phrases: set[str]) -> None:
    text = " ".join(words)
    marked: set[int] = set()
    for phrase in phrases:  # every word has one letter, so that a plain search needs no borders
        at = text.find(phrase)
        while at >= 0:
            marked |= set(range(at, at + len(phrase)))
            at = text.find(phrase, at + 1)
    found = {i for start, end in Grams(map(gram_of, phrases)).spans(text) for i in range(start, end)}
    assert found == marked
