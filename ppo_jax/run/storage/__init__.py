"""What a run keeps on disk: its folder, tables, arrays and checkpoints."""
