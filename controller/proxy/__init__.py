"""The data plane: its own process, which relays agents' requests to the model that the route table names.

It imports nothing of the control plane; the two meet in the route table (`table.py`) and in the figures of `/stats`.
"""
