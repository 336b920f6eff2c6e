"""Latent-variable models: autoencoders of the variational kind."""
