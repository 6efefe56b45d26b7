"""What a policy keeps of its own attempts: skills that stand in later prompts."""
