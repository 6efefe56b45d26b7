"""Decisions after training: calibrate stated confidences, then answer or abstain for any price of a mistake."""
