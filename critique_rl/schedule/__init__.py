"""When to ask the critic: per-prompt plateaus, and the causes that are told apart."""
