"""LocoReg: a prior as weight decay of a whole network."""
