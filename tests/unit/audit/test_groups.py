"""Groups of augmented copies among pictures whose sources are known."""

import numpy as np
import pytest
from augmented_textures import augmented, texture

from medistill.audit import groups
from medistill.audit.alignment import grey, picture
from medistill.audit.groups import NEIGHBOURS, discover_groups

SIZE = 96


def find(frames: np.ndarray) -> np.ndarray:
    return discover_groups(lambda chosen: frames[chosen], len(frames))


def small(image: np.ndarray) -> np.ndarray:
    return np.stack([grey(channel[None, None], SIZE)[0] for channel in image])


def drawn(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sources with some augmented copies of each: frames (N, 3, 96, 96) in mixed order, and the source of each."""
    generator = np.random.default_rng(seed)
    frames, sources = [], []
    for source, size in enumerate(sizes):
        original = texture(1000 * seed + source, 192)
        frames += [small(augmented(original, generator)) for _ in range(size)]
        sources += [source] * size
    order = generator.permutation(len(frames))
    return np.stack(frames)[order], np.array(sources)[order]


@pytest.fixture(scope="module")
def slides() -> tuple[np.ndarray, np.ndarray]:
    return drawn([6, 6, 5, 4, 3, 2, 2, 1, 1])


def same(labels: np.ndarray) -> np.ndarray:
    return labels[:, None] == labels[None]


def test_copies_are_grouped_by_their_source(slides):
    frames, sources = slides
    assert len(frames) > NEIGHBOURS + 1  # not every pair is aligned
    found = find(frames)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(same(found), same(sources))


def test_groups_are_numbered_by_their_first_image(slides):
    found = find(slides[0])
    first = [np.flatnonzero(found == number)[0] for number in range(found.max() + 1)]
    assert first == sorted(first)
    assert set(found) == set(range(len(first)))


def test_grey_images(slides):
    frames, sources = slides
    np.testing.assert_array_equal(same(find(grey(frames, SIZE)[:, None])), same(sources))


def test_the_order_of_images_does_not_matter(slides):
    frames, _ = slides
    order = np.random.default_rng(1).permutation(len(frames))
    np.testing.assert_array_equal(same(find(frames[order])), same(find(frames)[order]))


def test_unrelated_images_stay_alone():
    frames = np.stack([small(texture(seed)) for seed in range(30)])
    np.testing.assert_array_equal(find(frames), np.arange(30))


def test_a_group_may_be_larger_than_the_number_of_neighbours():
    frames, sources = drawn([NEIGHBOURS + 5, 3, 3], seed=2)
    np.testing.assert_array_equal(same(find(frames)), same(sources))


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_right_angles(turn):
    source = texture(7)
    frames = np.stack([small(source), small(np.rot90(source, turn, axes=(1, 2))), small(texture(8))])
    np.testing.assert_array_equal(find(frames), [0, 0, 1])


def test_few_images():
    one, other = small(texture(1)), small(texture(2))
    assert find(np.empty((0, 3, SIZE, SIZE), np.uint8)).tolist() == []
    assert find(one[None]).tolist() == [0]
    assert find(np.stack([one, one[:, ::-1]])).tolist() == [0, 0]
    assert find(np.stack([one, other])).tolist() == [0, 1]


@pytest.mark.parametrize("count", [3, 2 * NEIGHBOURS])
def test_blank_images_are_copies_of_nothing(count):
    """Both with few images, where every pair is aligned, and with many, where only the nearest are."""
    blank = np.full((count, 3, SIZE, SIZE), 128, np.uint8)
    np.testing.assert_array_equal(find(blank), np.arange(count))


def test_each_image_is_asked_for_once():
    frames = np.stack([small(texture(seed)) for seed in range(3)])[np.arange(300) % 3]
    asked = []

    def ask(chosen: np.ndarray) -> np.ndarray:
        asked.append(chosen)
        return frames[chosen]

    groups._read(ask, len(frames))
    np.testing.assert_array_equal(np.concatenate(asked), np.arange(300))
    assert max(map(len, asked)) == 256


def test_a_mirrored_image_has_the_same_words():
    pixels = grey(np.stack([texture(seed) for seed in range(30)]))
    pictures = [picture(image) for image in [*pixels, np.ascontiguousarray(pixels[0][:, ::-1])]]
    bags = groups._bags(pictures)
    alike = (bags @ bags.T).toarray()
    np.testing.assert_allclose(alike.diagonal(), 1, atol=1e-5)
    assert alike[0, 30] > 0.8
    assert alike[0, 1:30].max() < 0.5


# _join, by hand: pairs of images, their likeness, and the resulting groups.


def joined(links: list[tuple[int, int, float]], count: int) -> list[set[int]]:
    pairs = np.array([link[:2] for link in links], np.int64).reshape(-1, 2)
    numbers = groups._join(pairs, np.array([link[2] for link in links]), count)
    return sorted((set(np.flatnonzero(numbers == number).tolist()) for number in set(numbers.tolist())), key=min)


def everyone(members: range, likeness: float = 0.9) -> list[tuple[int, int, float]]:
    return [(i, j, likeness) for i in members for j in members if i < j]


def test_a_false_link_does_not_merge_two_sources():
    links = everyone(range(5)) + everyone(range(5, 10))
    assert joined([*links, (2, 7, 0.6)], 10) == [set(range(5)), set(range(5, 10))]
    assert joined([*links, (2, 7, 0.99)], 10) == [set(range(5)), set(range(5, 10))]  # though it is the strongest
    # two such links are few among the pairs that were aligned
    aligned = [(i, j, 0.1) for i in (0, 1) for j in (5, 6, 9)]
    assert joined([*links, *aligned, (2, 7, 0.8), (3, 8, 0.8)], 10) == [set(range(5)), set(range(5, 10))]


def test_many_links_merge():
    links = everyone(range(5)) + everyone(range(5, 10))
    two_of_six = [(0, 5, 0.6), (1, 6, 0.6), (2, 7, 0.1), (2, 8, 0.1), (3, 8, 0.1), (3, 9, 0.1)]
    assert joined([*links, *two_of_six], 10) == [set(range(10))]


def test_groups_do_not_chain():
    """Each image resembles the next one, as slices of a scan do, but hardly any later one."""
    chain = [(i, j, 0.7 if j == i + 1 else 0.2) for i in range(20) for j in range(i + 1, min(20, i + 5))]
    assert max(map(len, joined(chain, 20))) <= 4


def test_two_images_need_one_link_and_a_third_one_two():
    assert joined([(0, 1, 0.7)], 3) == [{0, 1}, {2}]
    assert joined([(0, 1, 0.7), (1, 2, 0.6)], 3) == [{0, 1}, {2}]
    assert joined([(0, 1, 0.7), (1, 2, 0.6), (0, 2, 0.6)], 3) == [{0, 1, 2}]
    assert joined([(0, 1, 0.49)], 2) == [{0}, {1}]


def test_evidence_that_comes_late_counts():
    """Image 4 is linked to four members, the strongest link first, when there is no group of them yet."""
    links = [(3, 4, 0.95), (0, 4, 0.51), (1, 4, 0.51), (2, 4, 0.51)]
    assert joined([*everyone(range(4), 0.9), *links], 5) == [set(range(5))]
