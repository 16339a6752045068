"""FilterPrior: the Gaussian over a filter's taps, ways to make one, draw from it and keep it."""
