"""Normalizing flows: invertible networks with exact densities."""
