"""Where text comes from, by name, and the record of it that identifies a corpus.

A record holds what decides the documents: package versions, file digests, a dataset's commit. It
holds no path of this machine, so the same data elsewhere gives the same record.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bathyscope.corpora.chat import Message, chat
from bathyscope.corpora.documentation import documentation, documentation_versions
from bathyscope.corpora.documents import Document
from bathyscope.corpora.file_list import CorpusFile, Paths
from bathyscope.corpora.hf import hf_dataset, resolved_revision
from bathyscope.corpora.jsonl import jsonl, jsonl_files
from bathyscope.corpora.linux_doc import linux_doc
from bathyscope.corpora.nlp_corpus import nlp_corpus
from bathyscope.corpora.parquet import parquet, parquet_files
from bathyscope.corpora.tokens_bin import token_files, tokens_bin
from bathyscope.errors import ConfigError, CorpusError

Record = dict[str, Any]
Options = Mapping[str, Any]


class _Source(NamedTuple):
    open: Callable[[Options, Path, Any], tuple[Iterable[Document], Record]]
    required: frozenset[str]
    defaults: Options


def open_source(
    kind: str, options: Options, cache_folder: str | os.PathLike[str], tokenizer: Any = None
) -> tuple[Iterable[Document], Record]:
    """Return the documents of a source and the JSON-ready record that identifies them.

    | kind | options (with their defaults) |
    | --- | --- |
    | documentation | packages, min_chars=200 |
    | linux_doc | folder=None |
    | nlp_corpus | path=None |
    | jsonl | paths, text_key="text", id_key=None |
    | parquet | paths, text_key="text", id_key=None |
    | tokens_bin | paths, token_dtype="uint16", separator_id, vocabulary |
    | chat | paths, messages_key="messages", id_key=None |
    | hf | name, split, text_key="text", revision=None, config_name=None, streaming=True |

    Raises `ConfigError` for an unknown kind or option (with near matches) and for a missing one;
    the sources raise `CorpusError` and `DependencyError`. `chat` needs the model's tokenizer, whose
    template it applies.
    """
    if kind not in _SOURCES:
        raise ConfigError(f"There is no text source '{kind}'. {_instead(kind, _SOURCES)}")
    source = _SOURCES[kind]
    allowed = source.required | source.defaults.keys()
    for name in options:
        if name not in allowed:
            raise ConfigError(
                f"The text source '{kind}' has no option '{name}'. {_instead(name, allowed)}"
            )
    if missing := sorted(source.required - options.keys()):
        raise ConfigError(f"The text source '{kind}' needs {', '.join(missing)}; set it.")
    return source.open({**source.defaults, **options}, Path(cache_folder), tokenizer)


def open_sources(
    sources: Sequence[tuple[str, Options]],
    cache_folder: str | os.PathLike[str],
    tokenizer: Any = None,
) -> tuple[Iterable[Document], Record]:
    """Return the documents of several sources, one after the other, and the record of all.

    One source has the record that `open_source` gives. Raises what `open_source` raises.
    """
    opened = [open_source(kind, options, cache_folder, tokenizer) for kind, options in sources]
    if len(opened) == 1:
        return opened[0]
    documents = itertools.chain.from_iterable(found for found, _ in opened)
    return documents, {"kind": "several", "sources": [record for _, record in opened]}


def _open_documentation(
    options: Options, cache_folder: Path, _: Any
) -> tuple[Iterable[Document], Record]:
    packages, min_chars = options["packages"], options["min_chars"]
    documents = documentation(packages, min_chars=min_chars, cache_folder=cache_folder)
    return documents, {
        "kind": "documentation",
        "versions": documentation_versions(packages),
        "min_chars": min_chars,
    }


def _open_linux_doc(options: Options, _: Path, __: Any) -> tuple[Iterable[Document], Record]:
    return linux_doc(options["folder"])


def _open_nlp_corpus(options: Options, _: Path, __: Any) -> tuple[Iterable[Document], Record]:
    return nlp_corpus(options["path"])


def _open_jsonl(options: Options, _: Path, __: Any) -> tuple[Iterable[Document], Record]:
    keys = {"text_key": options["text_key"], "id_key": options["id_key"]}
    record = _record(jsonl_files(options["paths"]))
    return jsonl(options["paths"], **keys), {"kind": "jsonl", "files": record, **keys}


def _open_parquet(options: Options, _: Path, __: Any) -> tuple[Iterable[Document], Record]:
    keys = {"text_key": options["text_key"], "id_key": options["id_key"]}
    record = _record(parquet_files(options["paths"]))
    return parquet(options["paths"], **keys), {"kind": "parquet", "files": record, **keys}


def _open_tokens(options: Options, _: Path, __: Any) -> tuple[Iterable[Document], Record]:
    settings = {name: options[name] for name in ("token_dtype", "separator_id", "vocabulary")}
    record = _record(token_files(options["paths"]))
    dtype = options["token_dtype"]
    documents = tokens_bin(options["paths"], **settings)
    return documents, {"kind": "tokens_bin", "files": record, "token_dtype": dtype}


def _open_chat(options: Options, _: Path, tokenizer: Any) -> tuple[Iterable[Document], Record]:
    if not getattr(tokenizer, "chat_template", None):
        raise CorpusError(
            "data.kind is chat, but the model's tokenizer has no chat template. Put one beside it "
            "as chat_template.jinja, or take the text of an instruct model."
        )

    def render(messages: Sequence[Message]) -> str:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False))

    keys = {"messages_key": options["messages_key"], "id_key": options["id_key"]}
    record = _record(jsonl_files(options["paths"]))
    return chat(options["paths"], render, **keys), {"kind": "chat", "files": record, **keys}


def _record(files: Sequence[CorpusFile]) -> list[Record]:
    return [
        {"path": file.name, "bytes": file.path.stat().st_size, "digest": file_digest(file.path)}
        for file in files
    ]


def _open_hf(options: Options, cache_folder: Path, _: Any) -> tuple[Iterable[Document], Record]:
    # The commit is asked for first, so that what is recorded is what is read.
    revision = resolved_revision(options["name"], options["revision"])
    documents = hf_dataset(
        options["name"],
        split=options["split"],
        text_key=options["text_key"],
        revision=revision,
        config_name=options["config_name"],
        streaming=options["streaming"],
    )
    identity = {name: options[name] for name in ("name", "config_name", "split", "text_key")}
    return documents, {"kind": "hf", **identity, "revision": revision}


_SOURCES = {
    "documentation": _Source(_open_documentation, frozenset({"packages"}), {"min_chars": 200}),
    "linux_doc": _Source(_open_linux_doc, frozenset(), {"folder": None}),
    "nlp_corpus": _Source(_open_nlp_corpus, frozenset(), {"path": None}),
    "jsonl": _Source(_open_jsonl, frozenset({"paths"}), {"text_key": "text", "id_key": None}),
    "parquet": _Source(_open_parquet, frozenset({"paths"}), {"text_key": "text", "id_key": None}),
    "tokens_bin": _Source(
        _open_tokens,
        frozenset({"paths", "separator_id", "vocabulary"}),
        {"token_dtype": "uint16"},
    ),
    "chat": _Source(_open_chat, frozenset({"paths"}), {"messages_key": "messages", "id_key": None}),
    "hf": _Source(
        _open_hf,
        frozenset({"name", "split"}),
        {"text_key": "text", "revision": None, "config_name": None, "streaming": True},
    ),
}


_FILES: dict[str, Callable[[Paths], list[CorpusFile]]] = {
    "jsonl": jsonl_files,
    "parquet": parquet_files,
    "chat": jsonl_files,
    "tokens_bin": token_files,
}


def files_of_kind(kind: str, paths: Paths) -> list[CorpusFile]:
    """The files that a source of this kind reads, each once, sorted by path.

    Raises `ConfigError` for a kind that reads no files, and `CorpusError` where none matches.
    """
    if kind not in _FILES:
        raise ConfigError(f"Text of kind {kind!r} is no files. Wanted one of {', '.join(_FILES)}.")
    return _FILES[kind](paths)


def file_digest(path: Path) -> str:
    """What identifies the bytes of a file: blake2b of 16 bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _instead(given: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(given, names, n=3)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{meant}There are: {', '.join(sorted(names))}."
