"""Which text or images are read."""

from __future__ import annotations

from dataclasses import dataclass

from bathyscope.config.option import not_negative, option, positive


@dataclass
class DataConfig:
    """Which text or images are read, and how they are cut."""

    kind: str = option(
        "documentation",
        "where text or pictures come from: a choice of the group data",
    )
    packages: list[str] = option(
        ["stdlib", "topics", "numpy", "torch"], "installed packages to read docstrings from"
    )
    min_chars: int = not_negative(200, "shortest docstring taken, in characters")
    run: str | None = option(
        None, "run whose corpus is read, so that several runs see the same items; null makes one"
    )
    also: list[str] = option([], "corpora that are added: linux_doc, nlp_corpus")
    linux_doc: str | None = option(
        None, "folder of Debian's linux-doc; null looks in /usr/share/doc"
    )
    nlp_corpus: str | None = option(None, "the .tgz of npm's nlp-corpus, or a folder with it")
    paths: list[str] = option([], "files or globs, of some kinds folders too")
    text_key: str = option("text", "key or column that holds the text (jsonl, parquet, hf)")
    messages_key: str = option("messages", "key that holds the messages (kind chat)")
    id_key: str | None = option(None, "key that names a document (jsonl, parquet, chat)")
    token_dtype: str = option("uint16", "uint16, uint32 or int32 (kind tokens_bin)")
    dataset: str | None = option(None, "Hugging Face dataset (kind hf)")
    dataset_config: str | None = option(None, "configuration of that dataset")
    dataset_split: str = option("train", "split of that dataset")
    dataset_revision: str | None = option(None, "commit hash of that dataset")
    train_tokens: int = not_negative(208_000, "training tokens wanted; 0 takes all there are")
    held_out_tokens: int = not_negative(20_000, "held-out tokens wanted; 0 takes all there are")
    held_out_share: float = option(0.1, "share of documents that are held out")
    sequence_length: int = option(256, "tokens of a sequence")
    train_images: int = not_negative(0, "training images wanted (kinds of images); 0 takes all")
    held_out_images: int = not_negative(0, "held-out images wanted; 0 takes all there are")
    image_size: int = positive(224, "pixels of a side of an image")
    crops: int = not_negative(0, "random squares of a picture; 0 takes its middle")
    shuffle: bool = option(True, "seeded order of documents; needs all texts in memory")
    seed: int = not_negative(0, "order of documents and the split")
