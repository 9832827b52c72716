"""What the machine has, and what `lorary serve` makes of it: devices, memory, defaults, presets."""
