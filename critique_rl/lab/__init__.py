"""The embedded default: a tiny packaged policy, its column-addition tasks and its rule critic."""
