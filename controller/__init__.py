"""Turnout: event-sourced GitOps for the models behind AI agents. The files of this folder are the flow, one a step."""

__version__ = "0.1.0"
