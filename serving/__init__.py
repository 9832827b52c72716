"""What runs inside vLLM's API process, and how it is launched.

Here stand what others call by name (vLLM's extension points `gate` and `endpoints`,
the commands, the settings) and the process that puts the parts together; in the folders, the parts.
The parts know `errors` and `telemetry` of their surroundings, and not one another.
"""
