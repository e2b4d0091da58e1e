"""Films of agents: episodes played, drawn from the environments' states, written as GIF or MP4."""
