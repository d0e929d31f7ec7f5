"""Alerts as a pure state machine: findings, time and people in, transitions out."""
