"""Where environments come from, what they are made to do, and adapters of other suites."""
