"""Where prompts come from: a JSONL file or a reasoning-gym data set."""
