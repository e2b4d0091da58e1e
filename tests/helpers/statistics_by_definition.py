"""Statistics over agents, by their definitions, in NumPy."""

import numpy as np


def integrated_iqm(values):
    """The quantile step function, integrated over the middle half: its steps are at i/n, so the
    midpoints of 4n cells are exact."""
    cells = (np.arange(4 * len(values)) + 0.5) / (4 * len(values))
    middle = cells[(cells > 0.25) & (cells < 0.75)]
    return np.quantile(values, middle, method="inverted_cdf").mean()


def solving_by_definition(returns, env_steps, solved_at, window):
    result = np.full(returns.shape[1], np.inf)
    for agent in range(returns.shape[1]):
        for update in range(returns.shape[0]):
            recent = returns[max(update - window + 1, 0) : update + 1, agent]
            recent = recent[~np.isnan(recent)]
            if not np.isnan(returns[update, agent]) and recent.mean() >= solved_at:
                result[agent] = env_steps[update, agent]
                break
    return result
