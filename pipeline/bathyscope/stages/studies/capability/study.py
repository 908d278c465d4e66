"""Study: is more to be found in larger models, or is there a middle that is read best?

A claim of 2024 has it that models of middle capability are understood best: small ones lack
concepts, large ones have too many. Four techniques are put to the test on every model, each with
its controls: loss recovered by dictionaries, sparse probing, attribution against exact patching,
and the replacement score of attribution graphs. Share and amount are told apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from bathyscope.config import Config
from bathyscope.errors import ConfigError
from bathyscope.pages.study_data import StudyPage
from bathyscope.stages.studies.capability.figures import plots
from bathyscope.stages.studies.capability.measures import measure_member
from bathyscope.stages.studies.capability.patching import EXCLUDED, FARTHEST
from bathyscope.stages.studies.capability.probing import FEWEST_ROWS, KS
from bathyscope.stages.studies.capability.rivals import rivals_of, rivals_told
from bathyscope.stages.studies.capability.shapes import bits_per_byte
from bathyscope.stages.studies.capability.sizes import spliced_sizes
from bathyscope.stages.studies.capability.tables import tables
from bathyscope.stages.studies.capability.verdicts import answer, judged_techniques, verdicts
from bathyscope.stages.studies.family import table_row
from bathyscope.stages.studies.member import Member
from bathyscope.stages.studies.member_runs import Size, rows_are_tokens, run_of, width_of
from bathyscope.stages.studies.study import Subject, Tell
from bathyscope.stages.studies.transcoders import transcoder_run_of
from bathyscope.stages.studies.verdicts import Row, member_rows
from bathyscope.studies.sweet_spot import FEWEST_SEEDS, FEWEST_SIZES
from bathyscope.values import Json

NAME = "capability_range"
TITLE = "What is found in models of growing size and capability"
QUESTION = (
    "Do dictionaries, probes, attribution and attribution graphs work better on larger models, or "
    "best on those of middle size or capability?"
)
SEMANTICS = 1
TRANSCODERS = True
SPANS = False
SETTINGS = (
    "splice_tokens",
    "held_out_tokens",
    "train_tokens",
    "probe_tokens",
    "contrast_pairs",
    "prompts",
    "prompt_tokens",
    "transcoder_expansion",
    "transcoder_k",
    "expansions",
    "k_shares",
    "widths",
    "ks",
    "resamples",
    "seed",
)
DEFINITIONS = {
    "loss_recovered_mean": "(CE of mean ablation - CE of the spliced model) / (CE of mean ablation "
    "- CE of the model), on held-out tokens; the mean is over training rows. _zero: the same with "
    "zeros in place.",
    "nats_recovered": "CE of mean ablation - CE of the spliced model, nats per token: the amount "
    "of which loss recovered is the share.",
    "bits_per_byte": "Cross entropy of the model on the same tokens over the bytes of their text.",
    "balanced_accuracy": "Mean of the shares of both classes that are right, of held-out rows; 0.5 "
    "knows nothing. Interval: 95 % bootstrap over documents.",
    "columns": "Columns that a probe reads, chosen on training rows by |difference of class means| "
    "/ √(mean variance within classes); 0 for all.",
    "share_of_dense": "Σ over labels (accuracy - 1/2) / Σ (accuracy of the dense probe - 1/2).",
    "above_chance": "Mean over labels of the accuracy - 1/2.",
    "beyond_token": "Mean accuracy less that of the current token alone.",
    "label_group": "token: the current token decides the label; context: it does not.",
    "representation": "dictionary, or a control: neurons (coordinates of the hook point), pca, "
    "random (a dictionary of random directions), dense (all coordinates), token (naive Bayes on "
    "the current token), shuffled (labels in another order); of graphs: transcoder, exchanged "
    "(decoder rows exchanged).",
    "AtP": "(corrupted - clean activation) · gradient of the metric (Nanda 2023), heads and MLPs "
    "as a whole; AtP*: the mean of magnitudes without the gradient of one layer each.",
    "pearson": "Of a method's scores with the exact effects of the nodes of one pair, mean over "
    "pairs; spearman of their ranks. Interval: 95 % bootstrap over documents.",
    "relative_error": "Σ |score - exact effect| / Σ |exact effect| over nodes and pairs.",
    "replacement": "I_tokens / (I_tokens + I_errors), of the influence on the explained logits.",
    "completeness": "1 - I_errors / Σ (I + p), of all nodes.",
    "trained": "False for models with their initial weights.",
}
SOURCES = (
    "Gurnee et al. 2023, Finding Neurons in a Haystack, arXiv:2305.01610: sparse probing.",
    "Karvonen et al. 2025, SAEBench, arXiv:2503.09532: loss recovered, sparse probing of latents.",
    "Nanda 2023, Attribution Patching; Kramár et al. 2024, AtP*, arXiv:2403.00745.",
    "Ameisen et al. 2025, Circuit Tracing, Transformer Circuits Thread: replacement score.",
    "Hurvich and Tsai 1989, Biometrika 76: AICc.",
)


def sizes(config: Config, member: Member) -> list[Size]:
    """Dictionaries of the middle width of both protocols; `config` is that of the member's run.

    Raises `ConfigError` for models of pictures, which have neither tokens nor a loss of text, and
    for prompts that cannot be.
    """
    if not rows_are_tokens(config):
        raise ConfigError(
            f"study.name is {NAME}, which asks for the next token of text, and data.kind is "
            f"{config.data.kind}. Of pictures there are superposition, universality and "
            "wasted_weights."
        )
    _check_prompts(config)
    return spliced_sizes(config, width_of(config))


def _check_prompts(config: Config) -> None:
    """Before anything is computed: a pair takes a token from another, and never the first one."""
    study, length = config.study, config.data.sequence_length
    if study.contrast_pairs < 2:
        raise ConfigError(
            f"study.contrast_pairs is {study.contrast_pairs}. At least 2 are wanted: a pair takes "
            "a token from another."
        )
    if not 2 <= study.prompt_tokens < length:
        raise ConfigError(
            f"study.prompt_tokens is {study.prompt_tokens}. 2 to {length - 1} are wanted: "
            f"sequences have {length} tokens, of which one comes after a prompt."
        )


def subjects(config: Config, members: Sequence[Member]) -> list[Subject]:
    """Every member by itself."""
    return [Subject(member.name, (member,)) for member in members]


def measure(config: Config, subject: Subject, tell: Tell) -> list[Json]:
    """Rows of every technique and control of a member."""
    [member] = subject.members
    own = run_of(config, member)
    rows = measure_member(own, transcoder_run_of(config, member), tell)
    return [{**table_row(member), "hook": own.hook, **row} for row in rows]


def conclude(config: Config, members: Sequence[Member], rows: Sequence[Row]) -> StudyPage:
    """Whether each technique has a middle, trends over size and capability, plots and tables."""
    bits = bits_per_byte(members, rows)
    found = judged_techniques(config, members, rows, bits)
    rivals = rivals_of(config, members, rows, found)
    return StudyPage(
        name=NAME,
        title=TITLE,
        question=QUESTION,
        answer=" ".join(filter(None, [answer(found), rivals_told(rivals)])),
        verdicts=verdicts(config, members, rows, found),
        plots=plots(members, rows, bits),
        tables=tables(members, rows, found, rivals, bits),
        members=member_rows(members),
        protocol=_protocol(config, rows),
        sources=SOURCES,
        definitions=DEFINITIONS,
    )


def _protocol(config: Config, rows: Sequence[Row]) -> list[tuple[str, str]]:
    study = config.study
    few = ", ".join(map(str, KS))
    told = [
        (
            "Text",
            f"The same items for all models; losses on {study.splice_tokens:,} held-out tokens, "
            "first positions left out.",
        ),
        ("Depth", f"Dictionaries and probes: the stream after {study.depth:.0%} of the blocks."),
        (
            "Dictionaries",
            f"TopK, {study.tokens_per_latent} rows per latent, seeds "
            f"{', '.join(map(str, study.seeds))}; the middle width of each protocol with every L0, "
            "for probes also the middle L0.",
        ),
        (
            "Probes",
            f"Logistic, both classes with equal weight, on {few} columns; trained on about "
            f"{study.probe_tokens:,} training tokens and told of {study.held_out_tokens:,} "
            f"held-out ones. A label needs {FEWEST_ROWS} rows of each class in both.",
        ),
        (
            "Patching",
            f"At most {study.contrast_pairs} pairs of {study.prompt_tokens} tokens, one of the "
            f"last {FARTHEST} replaced by that of another piece of text; log probability of the "
            "token that comes next.",
        ),
        (
            "Graphs",
            f"{study.prompts} prompts of {study.prompt_tokens} tokens, a transcoder for each MLP "
            f"of F = {study.transcoder_expansion} d and L0 = {study.transcoder_k}, "
            f"{study.tokens_per_latent} rows per latent; the most probable next tokens, up to 10 "
            "or 95 %.",
        ),
        (
            "Capability",
            "1 / bits per byte. Trends take each model's own; shapes the mean of a size, so that "
            "seeds repeat a place. Size and capability rise together in one family, so neither is "
            "told apart from the other here.",
        ),
        (
            "Middle",
            f"Constant, straight, monotone with a bend, and parabola, by AICc; from {FEWEST_SIZES} "
            f"sizes of {FEWEST_SEEDS} seeds on, and only where chance gives such a lead in at most "
            "5 % and the top's interval lies inside.",
        ),
        (
            "Trends",
            "Least squares on ln parameters (embeddings included) or ln capability; groups are "
            "trained models: drawn with replacement from 8 on, left out in turn below.",
        ),
    ]
    reasons = {row["member"]: row["reason"] for row in rows if row["kind"] == EXCLUDED}
    left_out = " ".join(f"{name} is not patched: {why}" for name, why in reasons.items())
    return [*told, ("Left out", left_out)] if left_out else told
