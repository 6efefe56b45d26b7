"""The model being trained: loading, scoring, the two-channel step, checkpoints. Blind to critiques."""
