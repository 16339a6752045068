"""Studies: arms x data x models x splits x seeds, run as resumable cells and compared in pairs."""
