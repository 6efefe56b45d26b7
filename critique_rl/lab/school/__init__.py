"""The third embedded world: five families of tasks, one hard, one with three formats, one open-ended."""
