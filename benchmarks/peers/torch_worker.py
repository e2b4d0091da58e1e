# mypy: disable-error-code="import-not-found"
"""Our PyTorch reference, `benchmarks.pytorch_ppo` or tuned, on one thread; trains on over turns."""

import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

from protocol import OptionError, Options, Peer, require, serve, versions


def start(options: Options) -> Peer:
    """Train for a moment to warm up."""
    require(options, ("notebook", "standard"), most_agents=1)
    sys.path.insert(1, str(Path(__file__).parents[2]))
    from benchmarks import pytorch_compiled, pytorch_ppo, pytorch_tuned

    styles = {
        "plain": pytorch_ppo.PLAIN,
        "tuned": pytorch_tuned.STYLE,
        "compiled": pytorch_compiled.STYLE,
    }
    if options.style not in styles:
        raise OptionError(f"style {options.style!r}: there are {', '.join(styles)}")
    style = styles[options.style]
    compile_seconds = None
    if options.style == "compiled":
        compile_seconds = pytorch_compiled.warm_up(options.recipe)

    def updates() -> Iterator[tuple[int, float, float | None]]:
        """Each update's environment steps, seconds and, of a training's last, its return."""
        for seed in count(options.seed):
            steps, seconds = 0, 0.0
            for result in pytorch_ppo.training(options.recipe, seed, style=style):
                final = None
                if result.updates == pytorch_ppo.RECIPES[options.recipe].num_updates:
                    final = fmean(number for _, number in result.returns[-10:])
                yield result.env_steps - steps, result.seconds - seconds, final
                steps, seconds = result.env_steps, result.seconds

    progress = updates()
    next(progress)

    def turn() -> dict[str, Any]:
        steps, seconds, done = 0, 0.0, 0
        result: dict[str, Any] = {}
        while done < options.updates if options.updates else seconds < options.seconds:
            more_steps, more_seconds, final = next(progress)
            steps, seconds, done = steps + more_steps, seconds + more_seconds, done + 1
            if final is not None:
                result["final_return"] = final
        return {"env_steps": steps, "seconds": seconds, "updates": done, **result}

    packages = versions("torch", "gymnasium")
    return Peer(
        turn, compile_seconds, packages, f"the same work as ours, {options.style}, one thread"
    )


if __name__ == "__main__":
    serve(start)
