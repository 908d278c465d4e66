import itertools
from collections import Counter

from bathyscope.corpora.documents import Document
from bathyscope.corpora.order import shuffled

DOCUMENTS = [Document(f"package:{number}", "text") for number in range(200)]


def test_the_order_comes_from_ids_and_seed_alone() -> None:
    first = shuffled(DOCUMENTS, 0)
    assert first == shuffled(reversed(DOCUMENTS), 0)
    assert Counter(first) == Counter(DOCUMENTS)
    assert first != DOCUMENTS
    assert first != shuffled(DOCUMENTS, 1)


def test_the_order_is_pinned() -> None:
    names = [each.id for each in shuffled([Document(name, "") for name in "abcdef"], 0)]
    assert "".join(names) == "dfeabc"


def test_a_new_document_keeps_the_order_of_the_others() -> None:
    grown = shuffled([*DOCUMENTS, Document("new", "text")], 0)
    assert [each for each in grown if each.id != "new"] == shuffled(DOCUMENTS, 0)


def test_neighbours_do_not_stay_together() -> None:
    # Of 199 neighbouring pairs about 2 stay neighbours in a random order (199 * 2 / 200).
    place = {each.id: index for index, each in enumerate(shuffled(DOCUMENTS, 0))}
    together = sum(
        abs(place[one.id] - place[two.id]) == 1 for one, two in itertools.pairwise(DOCUMENTS)
    )
    assert together < 10


def test_none_and_one() -> None:
    assert shuffled([], 0) == []
    assert shuffled(DOCUMENTS[:1], 0) == DOCUMENTS[:1]
