"""Tests that run programs."""
