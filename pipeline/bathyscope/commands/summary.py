"""The last lines of a command: what came out, where it lies, and what to do next."""

from __future__ import annotations

from bathyscope.config import Config
from bathyscope.runs.run import DICTIONARIES, EVALUATIONS, Run, report_folder
from bathyscope.stages.fine_tune import result_name
from bathyscope.stages.inputs import is_of_images
from bathyscope.stages.logs import curves_command


def of_run(config: Config) -> str:
    """The last lines of a run: figures of the evaluation, the report's path, the next command."""
    if is_of_images(config):
        return (
            f"latents: {config.url.rstrip('/')}/latents.zarr/{config.dictionary.name}\n"
            "evaluate, describe and report read text only so far; the rows are there for yours."
        )
    if config.dictionary.kind == "crosscoder":
        return _of_crosscoder(config)
    if config.dictionary.kind != "autoencoder":
        return (
            f"features: {config.url.rstrip('/')}/features/{config.dictionary.name}\n"
            "evaluate and report read autoencoders only so far; the latents are there for yours."
        )
    run = Run(config.url)
    name = config.dictionary.name
    e = run.manifest(f"{EVALUATIONS}/{name}").facts
    figures = (
        f"held out: L0 {e['l0']:.1f}  FVU {e['fvu']:.3f} (train {e['train_fvu']:.3f}, "
        f"PCA {e['fvu_pca']:.3f}, random {e['fvu_random']:.3f})  "
        f"loss recovered (zero) {e['loss_recovered_zero']:.3f}  ΔCE {e['delta_ce']:.3f} nats  "
        f"dead {100 * e['dead_share']:.1f} % of {e['dead_share_rows']:,} tokens"
    )
    page = f"{config.url.rstrip('/')}/{report_folder(name)}/index.html"
    curves = curves_command(config)
    told = [f"report: {page}", *([] if curves is None else [f"curves: {curves}"])]
    return "\n".join([*told, _next(config), figures])


def of_fine_tuning(config: Config) -> str:
    """The last lines of a fine-tuning: what it changed on held-out documents, the next command."""
    name = result_name(config)
    facts = Run(config.url).manifest(f"{DICTIONARIES}/{name}").facts["fine_tune"]
    before, after = facts["held_out"]["before"], facts["held_out"]["after"]
    named = (("ΔCE", "delta_ce", 4), ("KL", "kl", 4), ("FVU", "fvu", 3), ("L0", "l0", 1))
    changes = [f"{n} {before[key]:.{d}f} to {after[key]:.{d}f}" for n, key, d in named]
    return (
        f"dictionary: {config.url.rstrip('/')}/{DICTIONARIES}/{name}\n"
        f"next: bathyscope evaluate {' '.join(_given(config))} dictionary.name={name}\n"
        f"held out, {before['targets']:,} targets: {'  '.join(changes)}"
    )


def _of_crosscoder(config: Config) -> str:
    """Per hook point FVU, and how many latents it has for itself before and after the check."""
    name = config.dictionary.name
    e = Run(config.url).manifest(f"{EVALUATIONS}/{name}").facts
    width = max(len("hook point"), *(len(hook) for hook in e["fvu_per_hook"]))
    titles = f"{'hook point':{width}}  {'FVU':>6}  {'train':>6}"
    latents = e["latents"]
    lines = [titles if latents is None else f"{titles}  exclusive by norm  after latent scaling"]
    for hook, fvu in e["fvu_per_hook"].items():
        line = f"{hook:{width}}  {fvu:6.3f}  {e['train_fvu_per_hook'][hook]:6.3f}"
        if latents is not None:
            by_norm, after = latents["exclusive_by_norm"][hook], latents["exclusive"][hook]
            line += f"  {by_norm:>17,}  {after:>20,}"
        lines.append(line)
    if latents is None:
        lines.append("Latent scaling needs hook points of one width: it was left out.")
    lines.append(
        f"held out: L0 {e['l0']:.1f}  dead {100 * e['dead_share']:.1f} % of "
        f"{e['dead_share_rows']:,} training tokens; ΔCE is not measured for crosscoders"
    )
    return "\n".join(lines)


def _next(config: Config) -> str:
    return (
        f"next: bathyscope run {' '.join(_given(config))} dictionary.name=wide "
        "dictionary.expansion=16"
    )


def _given(config: Config) -> list[str]:
    """What this run was started with, but for the name of the dictionary and its size."""
    overrides = Run(config.url).record["overrides"]
    kept = [o for o in overrides if not o.startswith(("dictionary.name", "dictionary.expansion"))]
    return kept or [f"url={config.url}"]
