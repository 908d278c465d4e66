from bathyscope.corpora.documents import Document, well_formed
from bathyscope.corpora.stable_hash import stable_hash


def test_the_digest_is_blake2b_128_of_the_text() -> None:
    # `printf abc | b2sum -l 128`
    assert Document("any", "abc").digest == "cf4ab791c62b8d2b2109c90275287816"


def test_the_id_does_not_enter_the_digest() -> None:
    assert Document("a", "text").digest == Document("b", "text").digest
    assert Document("a", "text").digest != Document("a", "text ").digest


def test_a_lone_surrogate_is_replaced_and_a_pair_is_joined() -> None:
    assert well_formed("a\ud800b") == "a\ufffdb"
    assert well_formed("\ud83d\ude00") == "\U0001f600"
    assert well_formed("naïve ☃") == "naïve ☃"


def test_hashes_are_the_same_in_every_process() -> None:
    # `printf word | b2sum -l 64` read little-endian
    assert stable_hash("word") == int.from_bytes(bytes.fromhex("4aa4cf27d7c78e95"), "little")
    assert stable_hash("") == int.from_bytes(bytes.fromhex("e4a6a0577479b2b4"), "little")
    assert 0 <= stable_hash("\ud800") < 2**64
