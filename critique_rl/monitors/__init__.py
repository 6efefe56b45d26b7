"""What watches the policy's answers: how diverse they are, in which formats, and what chance and reward explain."""
