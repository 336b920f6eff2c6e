"""Autoregressive models: each entry given those before it."""
