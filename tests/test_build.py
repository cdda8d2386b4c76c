import pytest

from d2r.build import MAX_WORDS, choose_words


@pytest.mark.parametrize(
    ("pictures", "words"), [(1, 128), (60, 1024), (1_000, 4096), (1_103, 4096), (10_000, 16384), (10**6, MAX_WORDS)]
)
def test_words_grow_with_the_square_root_of_the_collection(pictures, words):
    assert choose_words(pictures) == words


def test_words_are_a_power_of_two_and_never_fall_with_more_pictures():
    chosen = [choose_words(pictures) for pictures in range(1, 5000, 7)]
    assert chosen == sorted(chosen)
    assert all(words & (words - 1) == 0 for words in chosen)
