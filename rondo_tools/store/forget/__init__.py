"""`rondo-store DIR --forget SELECTOR`: removes sessions from a store for good."""
