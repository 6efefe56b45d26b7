"""Pure statistics on plain numbers: numpy and scipy only, no torch."""
