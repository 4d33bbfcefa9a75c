"""The equations and their fast algorithms, as functions of tensors. Imports torch only."""
