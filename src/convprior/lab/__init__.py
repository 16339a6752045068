"""The laboratory: data, training, studies and reports. The library above never imports it."""
