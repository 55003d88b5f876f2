"""Shipped for authors of kinds and for the local environment: fakes, doubles and simulated endpoints."""
