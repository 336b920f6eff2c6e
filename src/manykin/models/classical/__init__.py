"""Classical densities: box, Gaussian, mixtures, kernels, independent columns, probabilistic PCA."""
