"""Protocols and metrics: Revisited Oxford and Paris, Google Landmarks, and detection."""
