"""`rondo-store DIR --forget SELECTOR`: removing for good what a store knows of some sessions."""
