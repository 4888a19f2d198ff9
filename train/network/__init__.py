"""The tracker as a network: one vision transformer over template and search tokens, and a head."""
