"""What tests share: oracles, problems to solve with them, small populations."""
