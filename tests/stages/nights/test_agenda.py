"""What a night is to do, from what there is and what earlier nights have seen."""

from __future__ import annotations

from collections.abc import Sequence

from bathyscope.stages.nights.agenda import Agenda, agenda_of
from bathyscope.stages.nights.ledger import Ledger, Pair
from bathyscope.stages.nights.watched import Checkpoint, WatchedFile, natural


def weights(name: str) -> Checkpoint:
    return Checkpoint(name, f"digest of {name}", {"path": name})


def file(path: str, digest: str = "") -> WatchedFile:
    return WatchedFile(path, 10, 1, digest or f"digest of {path}")


def agenda(
    ledger: Ledger,
    checkpoints: Sequence[Checkpoint],
    files: Sequence[WatchedFile],
    *,
    newest: int = 1,
    backfill: int = 1,
) -> tuple[Agenda, list[str]]:
    notes: list[str] = []
    made = agenda_of(
        3, ledger, checkpoints, files, newest=newest, backfill=backfill, note=notes.append
    )
    return made, notes


def after_two_nights() -> Ledger:
    """Checkpoint a has read two slices of one file each."""
    return Ledger(
        files={"one": file("one"), "two": file("two")},
        slices={"000001": {}, "000002": {}},
        checkpoints={"a": weights("a")},
        done=[Pair("a", "000001"), Pair("a", "000002")],
    )


def test_numbers_in_names_count_as_numbers() -> None:
    names = ["step-10", "step-9", "final", "step-9b", "step-010"]
    assert sorted(names, key=natural) == ["final", "step-9", "step-9b", "step-10", "step-010"]


def test_the_first_night_is_read_by_every_checkpoint() -> None:
    made, _ = agenda(Ledger(), [weights("a"), weights("b")], [file("one")])
    assert made.slice_name == "000003"
    assert made.pairs == [Pair("a", "000003"), Pair("b", "000003")]


def test_new_text_is_read_by_the_newest_checkpoints() -> None:
    ledger = after_two_nights()
    ledger.checkpoints["b"] = weights("b")
    files = [*ledger.files.values(), file("three")]
    made, notes = agenda(ledger, [weights("a"), weights("b")], files)
    assert [f.path for f in made.files] == ["three"]
    assert made.pairs == [Pair("b", "000003")]
    both, _ = agenda(ledger, [weights("a"), weights("b")], files, newest=2)
    assert both.pairs == [Pair("a", "000003"), Pair("b", "000003")]
    assert notes == []


def test_a_new_checkpoint_reads_the_newest_earlier_slices() -> None:
    ledger = after_two_nights()
    there = [weights("a"), weights("b")]
    made, _ = agenda(ledger, there, list(ledger.files.values()))
    assert made.pairs == [Pair("b", "000002")]
    made, _ = agenda(ledger, there, list(ledger.files.values()), backfill=0)
    assert made.pairs == [Pair("b", "000001"), Pair("b", "000002")]
    made, _ = agenda(ledger, there, [*ledger.files.values(), file("three")], backfill=9)
    assert made.pairs == [Pair("b", s) for s in ("000001", "000002", "000003")]


def test_nothing_new_is_an_empty_agenda() -> None:
    ledger = after_two_nights()
    made, notes = agenda(ledger, [weights("a")], list(ledger.files.values()))
    assert made.is_empty
    assert notes == []


def test_copies_are_left_out_and_changed_files_are_read_again() -> None:
    ledger = after_two_nights()
    files = [file("one", "other"), file("two"), file("copy", "digest of two")]
    made, notes = agenda(ledger, [weights("a")], files)
    assert [f.path for f in made.files] == ["one"]
    assert notes == [
        "1 file(s) hold what another file holds and are left out",
        "1 file(s) are other than when they were read, and are read again",
    ]
    twins = [file("x", "same"), file("y", "same")]
    made, _ = agenda(Ledger(), [weights("a")], twins)
    assert [f.path for f in made.files] == ["x"]


def test_what_failed_is_tried_again_while_its_checkpoint_is_there() -> None:
    ledger = after_two_nights()
    ledger.pending = [Pair("a", "000001"), Pair("gone", "000002")]
    made, notes = agenda(ledger, [weights("a")], list(ledger.files.values()))
    assert made.pairs == [Pair("a", "000001")]
    assert notes == ["gone is no longer there: it will not read slice 000002"]


def test_text_waits_for_a_checkpoint() -> None:
    made, notes = agenda(Ledger(), [], [file("one")])
    assert made.is_empty
    assert notes == ["there is no checkpoint yet, so the text waits"]


def test_an_agenda_comes_back_from_json() -> None:
    made, _ = agenda(after_two_nights(), [weights("b")], [file("three")])
    assert Agenda.from_json(made.to_json()) == made
