"""ppo-jax export: writes an agent's policy in formats that run elsewhere."""

import dataclasses

import tyro

from ppo_jax.cli import flags
from ppo_jax.run.storage import folder


@dataclasses.dataclass(frozen=True)
class Options(flags.Common):
    """Write an agent's greedy policy in formats that run elsewhere: ONNX, StableHLO, NumPy alone.

    The folder also receives a contract with names, types, shapes and 16 examples, the results of
    100 episodes, a film, and a README that is a model card for the Hugging Face Hub.
    """

    agent: int = 0
    """Number of the agent."""
    out: str | None = None
    """Folder for the files; None is export-AGENT in the run's, of a pretrained agent
    ENV-export here."""
    overwrite: bool = False
    """Replace the files that the folder holds."""
    # An exported policy is greedy.
    sampled: tyro.conf.Suppress[tyro.conf.Fixed[bool]] = dataclasses.field(
        default=False, kw_only=True
    )


def main(arguments: list[str]) -> None:
    """Parse the command line, and export the policy."""
    options = flags.read_options(Options, arguments, "export")
    path = folder.find(options.run, folder.SUMMARY, folder.PARAMETERS)
    default = (
        f"{path.name}-export" if folder.is_pretrained(path) else path / f"export-{options.agent}"
    )
    out = default if options.out is None else options.out
    folder.choose_results(out, options.overwrite)
    remedy = "--device cpu may have more memory"
    with flags.computing(options.device, "100 episodes", remedy):
        from ppo_jax.export.folder import export  # which imports jax

        own = {name: getattr(options, name) for name in ("seed", "overwrite", "quiet")}
        export(path, options.agent, out, **own)
