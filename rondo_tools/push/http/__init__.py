"""Delivery over HTTP: one attempt, its connection, its credentials, its protocol version."""
