import ast
import warnings
from pathlib import Path

import pytest

from bathyscope.corpora import docstrings
from bathyscope.corpora.docstrings import file_docstrings, source_docstrings

SOURCE = b'''"""The module's own words."""
import sys

class Shape:
    """A shape that has
        an area.
    """

    @property
    def area(self):
        """Area in square metres."""
    @area.setter
    def area(self, value):
        """Set the area, in square metres."""

    async def draw(self):
        def pen():
            \'\'\'A pen, inside a method.\'\'\'

if sys.platform == "win32":
    def only_here(): r"""Raw \\d text of a one-liner."""
else:
    try:
        def only_there():
            """Text of the other branch."""
    finally:
        pass

TEMPLATE = """a string that is assigned is no docstring"""
'''


def test_every_docstring_of_a_file_is_found_with_its_qualified_name() -> None:
    assert source_docstrings(SOURCE, min_chars=10) == [
        ("<module>", "The module's own words."),
        ("Shape", "A shape that has\nan area."),
        ("Shape.area", "Area in square metres."),
        ("Shape.area#2", "Set the area, in square metres."),
        ("Shape.draw.pen", "A pen, inside a method."),
        ("only_here", r"Raw \d text of a one-liner."),
        ("only_there", "Text of the other branch."),
    ]


def test_the_length_is_that_of_the_cleaned_text() -> None:
    assert len("A shape that has\nan area.") == 25
    names = [name for name, _ in source_docstrings(SOURCE, min_chars=25)]
    assert names == ["Shape", "Shape.area#2", "only_here", "only_there"]


@pytest.mark.parametrize("min_chars", [1, 2, 19, 20, 21, 60])
def test_the_byte_check_loses_nothing(min_chars: int) -> None:
    sources = [
        b'"""' + b"x" * 20 + b'"""',
        b"def f(): r'''" + b"x" * 20 + b"'''",
        b'def f():\n\t"""a\tb"""',
        b'# a stray """ in a comment\ndef f():\n    ("""' + b"y" * 20 + b'""")',
        'class C:\n    """ünïcödé tèxt öf ä cläss"""'.encode(),
        b"x = 1",
        b"",
    ]
    for source in sources:
        wanted = sorted(
            text
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and (text := ast.get_docstring(node)) is not None
            and len(text) >= min_chars
        )
        assert [text for _, text in source_docstrings(source, min_chars=min_chars)] == wanted


def test_invalid_escapes_of_other_people_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert source_docstrings(b'"""A \\d here."""', min_chars=1) == [("<module>", "A \\d here.")]


def test_a_file_that_does_not_parse_says_why_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_bytes(b'"""Long enough."""\ndef (')
    (tmp_path / "good.py").write_bytes(b'"""Long enough."""')
    bad, good = file_docstrings([tmp_path / "bad.py", tmp_path / "good.py"], min_chars=5)
    assert bad.docstrings == []
    assert bad.problem is not None
    assert bad.problem.startswith("SyntaxError")
    assert good == ([("<module>", "Long enough.")], None)


def test_no_files_give_nothing() -> None:
    assert file_docstrings([], min_chars=1) == []


def test_child_processes_give_what_one_process_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / f"file{number}.py" for number in range(7)]
    for number, path in enumerate(files):
        path.write_text('"""' + f"Text ☃ {number}. " * (number + 1) + '"""\n', encoding="utf-8")
    files[3].write_bytes(b'"""A surrogate \\ud800, and a null byte: \0"""')
    files[4].write_bytes(b'"""A surrogate \\ud800 in a literal."""')
    alone = file_docstrings(files, min_chars=5)

    monkeypatch.setattr(docstrings, "_MIN_BYTES_PER_PROCESS", 10)
    monkeypatch.setattr(docstrings, "_num_cores", lambda: 3)
    assert len(docstrings._shares(files)) == 3
    assert file_docstrings(files, min_chars=5) == alone
    assert alone[4].docstrings == [("<module>", "A surrogate \ud800 in a literal.")]


def test_the_largest_files_are_dealt_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "_MIN_BYTES_PER_PROCESS", 10)
    monkeypatch.setattr(docstrings, "_num_cores", lambda: 2)
    files = [tmp_path / name for name in ("a.py", "b.py", "c.py", "d.py")]
    for path, size in zip(files, (10, 40, 20, 30), strict=True):
        path.write_bytes(b"#" * size)
    # 40 | 30, then 20 to the lighter, then 10 to the lighter: 40 + 10 and 30 + 20.
    assert docstrings._shares(files) == [[files[1], files[0]], [files[3], files[2]]]
