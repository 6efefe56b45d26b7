"""Rollout engines: who samples completions."""
