"""Protocols and metrics: Revisited Oxford and Paris, Google Landmarks, detection."""
